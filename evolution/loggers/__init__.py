"""Who is told of a generation."""

from populora_env.moved import names_of

__getattr__ = names_of(__name__, "evolution.loggers.base")
