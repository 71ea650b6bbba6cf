"""What can be wrong with settings, commands and runs; each message is one line that names it.

One grammar for all: the argument, what came, what was expected, and what to do.
"""

from populora_env.errors import PopuloraError


class OperatorError(PopuloraError, ValueError):
    """A name or a parameter that no operator has; the message says what is expected."""


class ConfigError(PopuloraError, ValueError):
    """A setting that cannot be used; the message names it, the value and what is expected."""


class UsageError(PopuloraError, ValueError):
    """A command line that cannot be used."""


class CheckpointError(PopuloraError, RuntimeError):
    """A run folder that cannot be written or resumed."""


class DamageError(CheckpointError):
    """A run of which something is missing or changed.

    Args:
        message: Names the file.
        remedy: What can be done, where the run does not need it; empty if it does.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class RunError(UsageError, CheckpointError):
    """A run folder that cannot be read; the message says which file, where and why."""


class OlderError(CheckpointError):
    """A generation of a version that this one cannot go on from."""
