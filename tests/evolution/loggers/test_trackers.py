"""Loggers by name, and those for Weights & Biases and Trackio with the real packages, offline."""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
import time
from unittest import mock

import numpy as np
import pytest

from evolution import LOGGERS, RunConfig
from evolution.errors import CheckpointError, ConfigError
from evolution.guard.ladder import Rung
from evolution.guard.records import GuardReport, Step, Watched
from evolution.guard.verdicts import Verdict
from evolution.loggers.base import CallbackLogger, aggregates, alerts
from evolution.loggers.named import LoggedRun, check_packages, make_loggers
from evolution.loggers.tensorboard import TensorBoardLogger
from tests.evolution.loggers.test_base import SETTINGS, make


@pytest.fixture(scope="module")
def told():
    """Two generations: their results, the last with a guard that stops the run, and episodes."""
    seen = []
    make(lambda result, transcripts: seen.append((result, transcripts))).run(2)
    result, transcripts = seen[1]
    return [seen[0], (dataclasses.replace(result, guard=guard_report()), transcripts)]


def guard_report():
    bad = mock.Mock(spec=Verdict, bad=True, __str__=lambda _: "3 of 8 anchors lost")
    step = Step(Rung.STOP, True, "the run stops")
    own = Watched("agent_0", "g0-0", {}, verdict=bad, rung=Rung.STOP, step=step)
    return GuardReport((own,), 0.5, 8, 0, stop="agent_0 unlearns")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Connections of Python to anything but this machine are an error."""
    real = socket.socket.connect

    def connect(self, address):
        here = isinstance(address, str) or address[0] in ("127.0.0.1", "::1", "localhost")
        assert here, f"a logger went to the network: {address}"
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    for name in ("WANDB_MODE", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)


def test_names_are_joined_and_checked():
    RunConfig(log="tensorboard+trackio(project='mine')+wandb").check()
    RunConfig(log="none").check()
    for log, said in (
        ("tensorbord", "did you mean tensorboard"),
        ("wandb+wandb", "expected different names joined by"),
        ("0.5*wandb", "without numbers"),
        ("wandb(colour=1)", "log: wandb: colour is unknown"),
    ):
        with pytest.raises(ConfigError, match=said):
            RunConfig(log=log).check()


def test_one_of_ones_own_has_a_name(tmp_path):
    run = LoggedRun(tmp_path, 3, SETTINGS)
    with mock.patch.dict(LOGGERS):

        @LOGGERS.add("mine")
        def mine(run, *, word="x"):
            return lambda result, transcripts: (run.first, word)

        (made,) = make_loggers("mine(word='y')", run)
    assert isinstance(made, CallbackLogger)
    assert make_loggers("none", run) == []
    (board,) = make_loggers("tensorboard", run)
    assert isinstance(board, TensorBoardLogger)
    board.close()


def test_one_that_cannot_start_is_left_out_with_one_line(tmp_path):
    def broken(run):
        raise OSError("no room")

    with mock.patch.dict(LOGGERS):
        LOGGERS.add("broken")(broken)
        with pytest.warns(RuntimeWarning) as caught:
            assert make_loggers("broken", LoggedRun(tmp_path, 0, {})) == []
    assert [str(w.message) for w in caught] == [
        "loggers: broken could not start and is left out (OSError: no room); the run is not "
        "affected"
    ]


def test_a_package_that_is_not_there_is_named_before_the_run(capsys):
    from evolution.cli import main

    with mock.patch("evolution.loggers.named.find_spec", return_value=None):
        with pytest.raises(ModuleNotFoundError):
            check_packages("wandb")
        assert main(["evolve", "--log", "trackio"]) == 2
    assert "pip install 'populora-env[trackio]'" in capsys.readouterr().err


def test_what_the_guard_did_is_an_alert(told):
    assert alerts(told[0][0]) == []
    line, stop = alerts(told[1][0])
    assert (line.title, line.is_stop) == ("Guard, generation 2", False)
    assert line.text == "agent_0 (g0-0): the run stops; 3 of 8 anchors lost"
    assert (stop.title, stop.text, stop.is_stop) == (
        "Guard stops the run, generation 2", "agent_0 unlearns", True
    )  # fmt: skip


def expected(result):
    return {name: value for name, value in aggregates(result).items() if value is not None}


def wandb_records(folder):
    """Records of offline runs that have ended, in the order of the calls."""
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        last = time.monotonic() + 60
        # Another process writes it, and may not have done so yet when `finish` returns.
        while not (records := records_in(file)) or records[-1].WhichOneof("record_type") != "exit":
            assert time.monotonic() < last, f"{file} does not end"
            time.sleep(0.05)
        yield from records


def records_in(file):
    """What LevelDB's log format holds after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    block, found = 32768, []
    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block  # what no header fits into is left empty
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + length > len(data):
            break
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


@pytest.mark.slow
def test_wandb_has_the_figures_and_goes_on_under_its_id(told, tmp_path):
    pytest.importorskip("wandb")
    for generation, (result, transcripts) in enumerate(told):
        (logger,) = make_loggers("wandb", LoggedRun(tmp_path, generation, SETTINGS))
        logger.log(result, transcripts)
        logger.close()
        logger.close()  # no second time
    records = list(wandb_records(tmp_path))
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {run.run_id for run in runs} == {(tmp_path / "wandb" / "run_id").read_text().strip()}
    config = {item.key: json.loads(item.value_json) for run in runs for item in run.config.update}
    assert {name: config[name] for name in SETTINGS} == SETTINGS
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            found = {i.key or ".".join(i.nested_key): i.value_json for i in record.history.item}
            rows.append({name: json.loads(value) for name, value in found.items()})
    assert [row["_step"] for row in rows] == [0, 1]
    for row, (result, _) in zip(rows, told, strict=True):
        for name, value in expected(result).items():
            assert row[name] == pytest.approx(value), name
        assert row["fitness/agents._type"] == "histogram", sorted(row)
        assert row["transcript/0._type"] == "html-file"
    texts = [r.alert.title for r in records if r.WhichOneof("record_type") == "alert"]
    assert texts == ["Guard, generation 2", "Guard stops the run, generation 2"]


@pytest.mark.slow
def test_trackio_has_the_figures_and_goes_on_under_its_id(told, tmp_path, capsys):
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    for generation, (result, transcripts) in enumerate(told):
        run = LoggedRun(tmp_path / "run", generation, SETTINGS)
        (logger,) = make_loggers("trackio(project='tested')", run)
        logger.log(result, transcripts)
        logger.close()
    assert capsys.readouterr().out == ""
    (found,) = trackio.Api().runs("tested")
    known = (tmp_path / "run" / "trackio" / "run_id").read_text().strip()
    assert found.name == f"run-{known[:6]}"
    assert {name: found.config[name] for name in SETTINGS} == SETTINGS
    rows = {row["step"]: row for row in SQLiteStorage.get_logs("tested", run_id=found.id)}
    assert sorted(rows) == [0, 1]
    for result, _ in told:
        for name, value in expected(result).items():
            assert rows[result.generation][name] == pytest.approx(value), name
        assert rows[result.generation]["fitness/agents"]["_type"] == "trackio.histogram"
        assert rows[result.generation]["transcript/0"]["_type"] == "trackio.markdown"
    assert sorted(alert["title"] for alert in found.alerts()) == [
        "Guard stops the run, generation 2", "Guard, generation 2"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_do_not_write_through_a_link(name, tmp_path):
    pytest.importorskip(name)
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.mkdir()
    run.mkdir()
    (run / name).symlink_to(victim)
    with pytest.raises(CheckpointError, match="it is a link, and links are not followed"):
        make_loggers(name, LoggedRun(run, 0, {}))
    assert list(victim.iterdir()) == []


def test_values_that_are_not_known_are_not_in_histograms(told):
    from evolution.loggers.base import spreads

    result = told[0][0]
    scores = dataclasses.replace(result.scores, fitness=np.array([np.nan, 1.0, np.inf, 2.0]))
    assert spreads(dataclasses.replace(result, scores=scores))["fitness/agents"].tolist() == [1, 2]
