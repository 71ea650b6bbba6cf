"""What becomes of a run where something breaks: disks, files, individuals, judges."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from agents.policy import FunctionPolicy
from agents.population import LoraPopulation
from agents.rollout import rollout
from evolution import CheckpointError, EvolutionManager
from evolution.runs.branching import branch
from evolution.runs.files import FORMAT, folder_of, read_while_it_goes_on, saved_generations
from populora_env import Problem
from populora_env.arena import ReasoningArena
from tests.conftest import make_tiny_base
from tests.evolution.test_manager import config, make

FILES = ("history.jsonl", "transcripts.jsonl", "lineage.json")
SETTINGS = config(evolve_every=1, confirm_problems=2)


class DiskFull:
    """From the n-th step of writing on, every step fails for want of space."""

    def __init__(self, patch, last):
        self.steps, self.last = 0, last
        for owner, name in (
            (os, "fsync"), (Path, "write_bytes"), (Path, "write_text"), (Path, "rename"),
            (Path, "replace"),
        ):  # fmt: skip
            patch.setattr(owner, name, self._failing(getattr(owner, name)))

    def _failing(self, function):
        def step(*arguments, **options):
            self.steps += 1
            if self.steps > self.last:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **options)

        return step


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.slow
def test_a_full_disk_at_any_step_of_saving(tmp_path):
    start, whole = tmp_path / "start", tmp_path / "whole"
    make(start, SETTINGS).run(2)
    shutil.copytree(start, whole)
    manager = make(settings=SETTINGS)
    manager.resume(whole)
    transcripts = manager.play(manager.ask())
    with pytest.MonkeyPatch.context() as patch:
        disk = DiskFull(patch, 10**9)
        manager.tell(transcripts)
    assert disk.steps > 15
    said = []
    for last in range(0, disk.steps, 4):
        folder = tmp_path / f"full_{last}"
        shutil.copytree(start, folder)
        manager = make(settings=SETTINGS)
        manager.resume(folder)
        transcripts = manager.play(manager.ask())
        with pytest.MonkeyPatch.context() as patch:
            DiskFull(patch, last)
            try:
                manager.tell(transcripts)
                # Then it is saved, and what was left to do is deleting an old one.
                assert saved_generations(folder) == [0, 1, 2]
            except CheckpointError as error:
                said.append(str(error))
        again = make(settings=SETTINGS)
        again.resume(folder)
        again.run(3 - again.generation)
        assert contents(folder) == contents(whole), last
        assert not [e for e in folder.iterdir() if e.name.endswith(".tmp")]
    assert len(said) > 3
    for line in said:
        assert "No space left on device" in line
        assert "make room" in line
        assert "\n" not in line


def test_a_folder_that_is_read_only(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    make(tmp_path, SETTINGS).run(1)
    manager = make(settings=SETTINGS)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CheckpointError, match=r"cannot write to .* \(Read-only file system\)"):
        manager.resume(tmp_path)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    make(folder, SETTINGS).run(3)
    return folder


def edit_state(folder, **entries):
    file = folder / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda g: (g / "state.safetensors").unlink(), r"state.safetensors is damaged \(No such"),
        (lambda g: (g / "manifest.json").unlink(), r"manifest.json is damaged \(No such"),
        (lambda g: (g / "manifest.json").write_text("{}"), "state.json is damaged"),
        (lambda g: (g / "manifest.json").write_text("[1]"), "expected a JSON object, got list"),
        (lambda g: (g / "state.json").write_text("{"), "state.json is damaged"),
        (lambda g: edit_state(g, format="2"), "format: got '2'"),
        (lambda g: edit_state(g, standing=None), "its hash differs"),
        (lambda g: shutil.rmtree(g / "adapters" / "agent_2"), "agent_2/.* is damaged"),
        (lambda g: os.truncate(g.parent / "transcripts.jsonl", 9), "bytes shorter"),
    ],
)
def test_damage_is_named_and_the_way_on_is_said(three, tmp_path, damage, said):
    folder = tmp_path / "run"
    shutil.copytree(three, folder)
    damage(folder / "generation_0002")
    before = (folder / "history.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=said) as caught:
        make(settings=SETTINGS).resume(folder)
    if "shorter" in said:  # then what the earlier one needs is lost as well
        assert "no earlier generation on disk is whole" in str(caught.value)
    else:
        assert f"generation 1 is whole: go on from it with populora evolve --branch {folder}@1" in (
            str(caught.value)
        )
    assert (folder / "history.jsonl").read_bytes() == before


def test_a_generation_under_another_number_is_damage(three, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(three, folder)
    shutil.copytree(folder / "generation_0001", folder / "generation_0009")
    said = r"generation_0009 is damaged \(it holds generation 1\); delete it, or restore"
    with pytest.raises(CheckpointError, match=said):
        make(settings=SETTINGS).resume(folder)
    shutil.rmtree(folder / "generation_0009")
    (folder / "generation_\u0669").mkdir()  # a nine, but not one that we write
    (folder / "generation_-1").mkdir()
    manager = make(settings=SETTINGS)
    manager.resume(folder)
    assert manager.generation == 3


@pytest.mark.parametrize("place", ["generation_0001", "generation_0001/new", "best", "best/a/b"])
def test_no_run_begins_in_what_another_may_delete(three, tmp_path, place):
    folder = tmp_path / "run"
    shutil.copytree(three, folder)
    with pytest.raises(
        CheckpointError, match=r"out: .* lies in .*, which the run in .* may delete"
    ):
        make(folder / place, SETTINGS).ask()
    with pytest.raises(CheckpointError, match=r"out: .* lies in .* may delete|is in use"):
        branch(folder, 1, folder / place)
    make(folder / "branches" / "generation_0001", SETTINGS).ask()


def test_a_newer_version_and_another_population(three, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(three, folder)
    with pytest.raises(CheckpointError, match=r"does not fit .*agent_4"):
        make(size=5, settings=SETTINGS).resume(folder)
    edit_state(folder / "generation_0002", format=FORMAT + 1)
    with pytest.raises(CheckpointError, match=rf"newer version \(format {FORMAT + 1};"):
        make(settings=SETTINGS).resume(folder)


@pytest.mark.slow
def test_which_generations_stay(tmp_path):
    settings = config(evolve_every=1, keep_generations=1, keep_every=2)
    manager = make(tmp_path, settings)
    manager.run(5)
    assert saved_generations(tmp_path) == [1, 3, 4]
    assert (tmp_path / "best" / "adapter_model.safetensors").exists()
    (tmp_path / ".generation_0002.old.tmp").mkdir()
    make(settings=settings).resume(tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_what_was_killed_before_its_first_generation_begins_anew(tmp_path):
    make(tmp_path / "whole", SETTINGS).run(1)
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "run.lock").touch()
    (folder / "history.jsonl").write_text('{"generation": 0, "agent": "age')
    (folder / ".generation_0000.tmp").mkdir()
    make(folder, SETTINGS).run(1)
    assert contents(folder) == contents(tmp_path / "whole")
    make(folder_2 := tmp_path / "gone", SETTINGS).run(2)
    for number in saved_generations(folder_2):
        shutil.rmtree(folder_2 / f"generation_{number:04d}")
    with pytest.raises(CheckpointError, match="whose generations are gone"):
        make(folder_2, SETTINGS).run(1)


@pytest.mark.parametrize("name", ["best", "transcripts.jsonl", "run.toml", "report.html"])
def test_no_run_begins_over_files_of_somebody_else(tmp_path, name):
    theirs = tmp_path / name / "weights.bin" if name == "best" else tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("precious")
    for _ in range(2):  # nor is a second try taken for a run that was begun
        with pytest.raises(CheckpointError, match=f"holds {name}, and a run that is not there"):
            make(tmp_path, SETTINGS)
    assert theirs.read_text() == "precious"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [name]


def poison(manager, slots):
    for layer in manager.population.lora.layers():
        for slot in slots:
            layer.B[slot] = float("nan")


@pytest.mark.parametrize("selection", ["tournament", "lower_bound(c=0)"])
def test_a_broken_individual_leaves_evolution_and_the_run_goes_on(tmp_path, selection):
    settings = config(evolve_every=2, offspring=1, elites=1, selection=selection, spread=0.1)
    manager = make(tmp_path, settings)
    manager.run(1)
    plan = manager.ask()
    transcripts = manager.play(plan)
    poison(manager, [1])
    result = manager.tell(transcripts)
    assert manager.population.lora.finite().all()
    assert np.isnan(result.standing).tolist() == [False, True, False, False]
    assert np.isnan(result.scores.fitness).tolist() == [False, True, False, False]
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").open()][4:]
    assert [row["broken"] for row in rows] == [False, True, False, False]
    assert rows[1]["standing"] is None
    assert not rows[1]["best"]
    broken = manager.lineage[1]
    assert (broken.name, broken.broken, broken.fitness) == ("g0-1", 1, None)
    resumed = make(settings=settings)
    resumed.resume(tmp_path)
    assert np.isnan(resumed.standing).tolist() == [False, True, False, False]
    born = resumed.ask().born
    assert [child.slot for child in born] == [1]
    assert "g0-1" not in born[0].parents
    assert np.isfinite(resumed.run(1)[0].standing).all()


class EvenAgentsAreRight:
    def __init__(self, problems):
        self.problems = problems

    def act(self, requests):
        return [
            next(f"The answer is {p.answer}." for p in self.problems if p.prompt in r.prompt)
            if r.agent in ("agent_0", "agent_2")
            else "no idea"
            for r in requests
        ]


def test_a_broken_individual_does_not_poison_what_others_learn():
    """The others' optimiser state and weights are finite, and they did learn."""
    manager = make(settings=config(spread=0.1))
    plan = manager.ask()
    arenas = [ReasoningArena([problem], num_agents=4) for problem in plan.problems]
    transcripts = rollout(EvenAgentsAreRight(plan.problems), arenas, plan.problems)
    poison(manager, [2])
    before = [layer.B.clone() for layer in manager.population.lora.layers()]
    result = manager.tell(transcripts)
    assert np.isfinite(result.learning.grad_norms).all()
    assert all(np.isfinite(t.numpy()).all() for t in manager._learner.state().values())
    after = [layer.B for layer in manager.population.lora.layers()]
    for slot in (0, 1, 3):
        moved = any((a[slot] != b[slot]).any() for a, b in zip(after, before, strict=True))
        assert moved == (result.learning.grad_norms[slot] > 0)
    assert result.learning.grad_norms[0] > 0


def test_a_generation_in_which_all_individuals_break(tmp_path):
    settings = config(evolve_every=1, offspring=2)
    manager = make(tmp_path, settings)
    plan = manager.ask()
    transcripts = manager.play(plan)
    poison(manager, range(4))
    result = manager.tell(transcripts)
    assert np.isnan(result.standing).all()
    assert manager.champion is None
    later = manager.run(2)[-1]
    assert np.isfinite(later.standing).sum() >= 2
    assert manager.population.lora.finite().all()
    assert manager.champion is not None


@pytest.mark.parametrize("reply", ["", "\ufffd\x00 no answer"])
def test_a_generation_in_which_all_replies_fail(tmp_path, reply):
    manager = make(tmp_path, config(evolve_every=1))
    plan = manager.ask()
    arenas = [ReasoningArena([problem], num_agents=4) for problem in plan.problems]
    policy = FunctionPolicy(lambda prompt: reply)
    result = manager.tell(rollout(policy, arenas, plan.problems))
    assert (result.scores.accuracy == 0).all()
    assert np.isfinite(result.standing).all()
    assert np.ptp(result.standing) == pytest.approx(0)
    assert manager.run(1)[0].generation == 1


class AlwaysFails:
    def judge(self, comparisons):
        raise RuntimeError("down")


def test_a_judge_that_always_fails(tmp_path):
    problems = [Problem.create(f"Say {number}.", None) for number in range(6)]
    population = LoraPopulation(make_tiny_base(), 4, 2)
    settings = config(rewards="external_judge", evolve_every=1)
    manager = EvolutionManager(population, problems, settings, folder=tmp_path, judge=AlwaysFails())
    results = manager.run(2)
    manager.close()
    assert all(np.isfinite(result.scores.returns).all() for result in results)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").open()]
    assert all(row["accuracy"] is None for row in rows)


def test_a_run_is_read_again_where_a_generation_went_meanwhile(tmp_path):
    for generation in (0, 1):
        folder_of(tmp_path, generation).mkdir()
    tries = []

    def read():
        tries.append(max(saved_generations(tmp_path)))
        if len(tries) == 1:  # the run goes on
            folder_of(tmp_path, 1).rmdir()
            folder_of(tmp_path, 2).mkdir()
            raise CheckpointError("a file is gone")
        return "read"

    assert read_while_it_goes_on(tmp_path, read) == "read"
    assert tries == [1, 2]

    def damaged():
        tries.append(0)
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match="damaged"):
        read_while_it_goes_on(tmp_path, damaged)
    assert tries == [1, 2, 0]
