from __future__ import annotations

import io
import json
import os

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.population import LoraPopulation
from evolution import (
    CallbackLogger,
    ConsoleLogger,
    EvolutionConfig,
    EvolutionManager,
    JsonlLogger,
    TensorBoardLogger,
)
from evolution.errors import CheckpointError
from evolution.loggers.base import aggregates
from populora_env import Problem
from tests.conftest import make_tiny_base

SPEC = "procedural:chain_sum(max_terms=2,max_digits=1)"
SETTINGS = {"seed": 3, "evolve_every": None, "crossover": "clone", "revise": False}


def make(*loggers, problems=SPEC, folder=None, **settings):
    config = EvolutionConfig(
        problems_per_generation=3, judged_problems=1, solve_tokens=6, judge_tokens=3, offspring=2,
        spread=0.5, mutation=0.1, confirm_problems=0, diversity_bar="none", **settings,
    )  # fmt: skip
    population = LoraPopulation(make_tiny_base(), 4, 2)
    return EvolutionManager(population, problems, config, loggers=loggers, folder=folder)


class Recorder:
    def __init__(self, fails_in=None, fails_to_close=False):
        self.seen, self.closed = [], 0
        self.fails_in, self.fails_to_close = fails_in, fails_to_close

    def log(self, result, transcripts):
        if result.generation == self.fails_in:
            raise OSError("disk full")
        self.seen.append((result.generation, len(transcripts)))

    def close(self):
        self.closed += 1
        if self.fails_to_close:
            raise OSError("gone")


def test_functions_and_objects_are_told_of_every_generation():
    seen, object_ = [], Recorder()
    manager = make(lambda result, transcripts: seen.append((result, transcripts)), object_)
    assert isinstance(manager.loggers[0], CallbackLogger)
    results = manager.run(2)
    assert [result for result, _ in seen] == results
    assert object_.seen == [(0, 3), (1, 3)]
    manager.close()
    assert object_.closed == 1


@pytest.mark.parametrize("given", [3, Recorder])
def test_what_is_no_logger_is_refused(given):
    with pytest.raises(TypeError, match=r"loggers: got .*expected an object with log"):
        make(given)


def test_a_logger_that_raises_is_dropped_and_loses_no_generation(tmp_path):
    broken, sound = Recorder(fails_in=1, fails_to_close=True), Recorder()
    manager = make(broken, sound, folder=tmp_path / "run")
    manager.run(1)
    with pytest.warns(RuntimeWarning) as caught:
        manager.run(2)
    said = [str(warning.message) for warning in caught]
    assert len(said) == 2  # of its failure once, and of its closing
    assert "Recorder failed in generation 1 and is dropped (OSError: disk full)" in said[0]
    assert "Recorder could not be closed" in said[1]
    assert manager.loggers == [sound]
    assert sound.seen == [(0, 3), (1, 3), (2, 3)]
    assert (broken.seen, broken.closed) == ([(0, 3)], 1)
    rows = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(row)["generation"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    manager.close()
    assert broken.closed == 1


def test_one_that_cannot_be_closed_keeps_no_other_open():
    sound = Recorder()
    with pytest.warns(RuntimeWarning, match="Recorder could not be closed"):
        make(Recorder(fails_to_close=True), sound).close()
    assert sound.closed == 1


def test_ctrl_c_in_a_logger_still_ends_the_run():
    def interrupt(result, transcripts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(interrupt).run(1)


def test_json_lines_have_the_aggregates_and_each_generation_once(tmp_path):
    path = tmp_path / "new" / "generations.jsonl"
    results = make(JsonlLogger(path), folder=tmp_path / "run").run(2)
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    scores = results[1].scores
    assert second["generation"] == 1
    assert second["best"] == results[1].best
    assert second["returns/mean"] == pytest.approx(scores.returns.mean())
    assert second["diversity/max"] == pytest.approx(scores.diversity.max())
    assert second["learning/grad_norm"] == pytest.approx(np.mean(results[1].learning.grad_norms))
    assert second["learning/kl"] is None
    assert first["born"] == ["g0-0", "g0-1", "g0-2", "g0-3"]
    assert second["born"] == []
    with path.open("a") as file:
        file.write(json.dumps({"generation": 2, "from": "a run that was killed"}) + '\n{"gener')
    manager = make(JsonlLogger(path))
    manager.resume(tmp_path / "run")
    manager.run(1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[:2] == [first, second]
    assert [row["generation"] for row in rows] == [0, 1, 2]
    assert "from" not in rows[2]


def test_the_console_line_shows_what_is_not_known_as_such():
    out = io.StringIO()
    console = Console(file=out, highlight=False)
    known = make(ConsoleLogger(console, generations=20)).run(1)[0]
    problems = [Problem.create(f"Say {n}.", None) for n in range(4)]
    make(ConsoleLogger(console), problems=problems, rewards="majority_answer").run(1)
    first, second = out.getvalue().splitlines()
    assert first.startswith("generation   1/20  return ")
    assert f"(best {known.scores.returns.max():5.2f})  accuracy 0." in first
    assert f"diversity {known.scores.diversity.mean():.3f}" in first
    assert second.startswith("generation   1  return ")
    assert "accuracy    ?  diversity" in second


@pytest.mark.parametrize("linked", ["log.jsonl", ".log.jsonl.tmp", "log.jsonl.part"])
def test_rows_are_not_written_through_a_link(tmp_path, linked):
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    (tmp_path / linked).symlink_to(victim)
    manager = make(JsonlLogger(tmp_path / "log.jsonl"))
    if linked == "log.jsonl":
        with pytest.warns(RuntimeWarning, match="it is a link, and links are not followed"):
            manager.run(1)
    else:
        manager.run(1)
        assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    assert victim.read_text() == "precious\n"


def test_a_pipe_is_no_file_for_rows(tmp_path):
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.warns(RuntimeWarning, match="JsonlLogger"):
        make(JsonlLogger(tmp_path / "log.jsonl")).run(1)


@pytest.mark.parametrize("linked", [".", "hparams", "peer_strength_agent_0", "events"])
def test_tensorboard_does_not_write_through_a_link(tmp_path, linked):
    victim, logs = tmp_path / "victim", tmp_path / "tensorboard"
    victim.mkdir()
    (victim / "precious").write_text("precious")
    if linked != ".":
        logs.mkdir()
    (logs / linked if linked != "." else logs).symlink_to(victim)
    with pytest.raises(CheckpointError, match=": it is a link, and links are not followed: dele"):
        TensorBoardLogger(logs, settings=SETTINGS)
    assert [file.name for file in victim.iterdir()] == ["precious"]


def test_tensorboard_has_curves_histograms_and_transcripts(tmp_path):
    manager = make(TensorBoardLogger(tmp_path, samples=1))
    results = manager.run(2)
    manager.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    for name, value in aggregates(results[1]).items():
        if value is not None:
            assert events.Scalars(name)[1].value == pytest.approx(value)
    assert set(events.Tags()["histograms"]) == {
        "fitness/agents", "returns/agents", "diversity/agents", "standing/agents"
    }  # fmt: skip
    fitness = events.Histograms("fitness/agents")[1].histogram_value
    assert fitness.num == 4
    assert fitness.max == pytest.approx(results[1].scores.fitness.max())
    texts = [tag for tag in events.Tags()["tensors"] if tag.startswith("transcript/")]
    assert texts == ["transcript/0/text_summary"]
    assert not (tmp_path / "hparams").exists()  # no settings were given


def test_settings_are_written_once_with_the_final_figures_also_after_a_resume(tmp_path):
    logs, run = tmp_path / "tensorboard", tmp_path / "run"
    manager = make(TensorBoardLogger(logs, settings=SETTINGS), folder=run)
    manager.run(1)
    manager.close()
    manager.close()  # no second time
    resumed = make(TensorBoardLogger(logs, first=1, settings={**SETTINGS, "seed": 4}))
    resumed.resume(run)
    last = resumed.run(1)[0]
    resumed.close()
    assert len(list((logs / "hparams").iterdir())) == 1
    events = EventAccumulator(str(logs / "hparams")).Reload()
    (figure,) = events.Scalars("final/returns/mean")
    assert figure.value == pytest.approx(last.scores.returns.mean())
    data = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert read_settings(data) == {
        "seed": 4.0, "evolve_every": "default", "crossover": "clone", "revise": False
    }  # fmt: skip


def test_a_resumed_run_that_plays_nothing_keeps_the_figures(tmp_path):
    logs = tmp_path / "tensorboard"
    manager = make(TensorBoardLogger(logs, settings=SETTINGS))
    manager.run(1)
    manager.close()
    before = [file.name for file in (logs / "hparams").iterdir()]
    TensorBoardLogger(logs, first=1, settings=SETTINGS).close()
    assert [file.name for file in (logs / "hparams").iterdir()] == before


def read_settings(content):
    from tensorboard.plugins.hparams import plugin_data_pb2

    found = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}
