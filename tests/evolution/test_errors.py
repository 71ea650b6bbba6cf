"""One root for what all three packages raise, and one line for it on the command line."""

from __future__ import annotations

import pytest

from agents.loading.models import ModelError
from agents.measuring.reply_log import ReplyLogError
from agents.policy import PolicyError
from agents.population import AdapterError
from agents.prompts import PromptError
from evolution import cli
from evolution.commands import progress as module
from evolution.errors import CheckpointError, ConfigError, DamageError, OperatorError, UsageError
from populora_env import ArenaError, PopuloraError, ProblemSpecError
from populora_env.grading.worker import WorkerError

VALUES = (
    AdapterError, ConfigError, ModelError, OperatorError, ProblemSpecError, PromptError,
    ReplyLogError, UsageError,
)  # fmt: skip
STATES = (ArenaError, CheckpointError, DamageError, PolicyError, WorkerError)


@pytest.mark.parametrize("kind", VALUES + STATES)
def test_an_error_of_ours_is_one_line_on_the_command_line(kind, monkeypatch, capsys):
    assert issubclass(kind, ValueError if kind in VALUES else RuntimeError)

    def fail(words):
        raise kind("size: got 0,\n expected an integer >= 1")

    monkeypatch.setattr(module, "main", fail, raising=False)
    monkeypatch.setitem(cli.COMMANDS, "fail", ("", module.__name__, ""))
    assert cli.main(["fail"]) == 2
    said = capsys.readouterr().err
    assert said == "populora: error: size: got 0, expected an integer >= 1\n"
    assert issubclass(kind, PopuloraError)


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, OSError])
def test_a_fault_of_ours_keeps_its_traceback(kind, monkeypatch):
    def fail(words):
        raise kind("wrong")

    monkeypatch.setattr(module, "main", fail, raising=False)
    monkeypatch.setitem(cli.COMMANDS, "fail", ("", module.__name__, ""))
    with pytest.raises(kind, match="wrong"):
        cli.main(["fail"])
