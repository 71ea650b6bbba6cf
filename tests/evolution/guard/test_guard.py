from __future__ import annotations

import json

import pytest
import torch

from agents.population import BASE, LoraPopulation
from evolution import CheckpointError, EvolutionConfig, EvolutionManager, Learner
from evolution.guard.acting import KL
from evolution.guard.anchors import Anchors
from evolution.guard.flags import Flag
from evolution.guard.forgetting import Forgetting
from evolution.guard.ladder import GOOD, Rung
from evolution.guard.signals import Signal
from evolution.lowrank.genomes import content_hash
from tests.conftest import make_tiny_base

SPEC = "procedural:chain_sum(max_terms=2,max_digits=1)"
ANCHORS = 16
GOOD_MARKS, BAD_MARKS = (True,) * ANCHORS, (False,) * ANCHORS


def config(**settings):
    quick = dict(problems_per_generation=2, judged_problems=0, evaluation="none", solve_tokens=4,
                 spread=0.5, mutation=0.1, elites=1, offspring=0, evolve_every=100, guard="act",
                 guard_every=5, guard_anchors=ANCHORS)  # fmt: skip
    return EvolutionConfig(**{**quick, **settings})


def make(folder=None, settings=None, size=3):
    population = LoraPopulation(make_tiny_base(), size, 2)
    manager = EvolutionManager(population, SPEC, settings or config(), folder=folder)
    learner = manager._learner
    if learner is not None and not hasattr(learner, "kl_weights"):
        learner.kl_weights = torch.zeros(size)
    return manager


@pytest.fixture
def planned(monkeypatch):
    """Who is bad from which reply on anchors on; `Anchors.replies` is saved and goes on."""
    plan = {}

    def marks(self, agents):
        if not agents:
            return {}
        found = {a: BAD_MARKS if self.replies >= plan.get(a, 1e9) else GOOD_MARKS for a in agents}
        self.replies += ANCHORS * len(agents)
        return found

    monkeypatch.setattr(Anchors, "marks", marks)
    monkeypatch.setattr(Forgetting, "losses", lambda *_: {})  # random models lose at random
    return plan


FIRST = ANCHORS * 4  # replies before the first check: of the base and three founders


def steps(results, slot=1):
    return [
        (result.generation, own.step.rung.word, own.step.up)
        for result in results
        if (own := result.guard.agents[slot]).step is not None
    ]


def test_without_a_guard_nothing_is_measured_and_nothing_written(tmp_path):
    manager = make(tmp_path, config(guard="off"))
    (result,) = manager.run(1)
    assert result.guard is None
    assert result.stop == ""
    assert not (tmp_path / "guard.jsonl").exists()
    assert "guard" not in manager._parts()


@pytest.mark.parametrize("given", ["always", "ACT", ""])
def test_other_words_for_what_it_may_do_are_refused(given):
    with pytest.raises(ValueError, match="guard: got"):
        config(guard=given)


def test_noting_changes_nothing_of_the_run(tmp_path, planned):
    planned["agent_1"] = FIRST
    # Problems of the training half alone: none of them is an anchor that has to be left out.
    for mode in ("off", "note"):
        manager = make(tmp_path / mode, config(guard=mode, guard_from=SPEC, guard_every=1))
        manager._drawn._aside = frozenset()
        results = manager.run(4)
        manager.close()
    assert steps(results) == [(0, "note", True)]
    for name in ("history.jsonl", "transcripts.jsonl", "lineage.json"):
        assert (tmp_path / "off" / name).read_bytes() == (tmp_path / "note" / name).read_bytes()


def test_who_stays_bad_is_noted_pulled_rolled_back_replaced_and_ends_the_run(planned):
    manager = make()
    lora = manager.population.lora
    planned["agent_1"] = FIRST
    (first,) = manager.run(1)
    kept = manager._guard._snapshots[1]
    assert first.guard.base == 1.0
    assert kept.content_hash == content_hash(lora, 1)
    results = [first, *manager.run(4)]
    assert steps(results) == [(4, "note", True)]
    results += manager.run(1)
    assert float(manager._learner.kl_weights[1]) == KL
    assert float(manager._learner.kl_weights[0]) == 0
    for layer in lora.layers():
        layer.B[1] += 0.1  # as if it had learned something bad
    manager._learner.optimizer.state()["steps"][1] = 7
    results += manager.run(1)  # the KL weight is given time
    assert len(steps(results)) == 2
    assert content_hash(lora, 1) != kept.content_hash
    results += manager.run(1)
    assert content_hash(lora, 1) == kept.content_hash
    assert float(manager._learner.optimizer.state()["steps"][1]) == 0
    assert manager.standing[1] == 0
    assert manager._lineage.living[1].name == "g0-1"
    results += manager.run(1)
    replacement = manager._lineage.living[1]
    assert replacement.operator == "guard"
    assert replacement.name == "g9-1-guard"
    assert replacement.generation == 9
    assert replacement.parameters["replaced"] == "g0-1"
    assert replacement.parameters["evidence"]["bad"]
    best = max(manager._guard._snapshots.values(), key=lambda s: (s.right, s.generation))
    assert replacement.parents == (best.individual,)
    assert replacement.content_hash == best.content_hash == content_hash(lora, 1)
    assert results[-1].individuals[1].name == "g0-1"  # who played
    results += manager.run(5)
    assert steps(results) == [
        (4, "note", True), (5, "raise_kl", True), (7, "roll_back", True), (8, "replace", True),
        (9, "stop", True),
    ]  # fmt: skip
    assert results[-1].generation == 9  # run returned
    assert "agent_1" in results[-1].stop
    assert "anchors lost" in results[-1].stop
    assert manager.run(2)[-1].generation == 10  # bad again, and it may go on if told to
    assert all(not steps(results, slot) for slot in (0, 2))
    manager.close()


def test_who_becomes_good_again_comes_down_and_gets_its_kl_weight_back(planned):
    manager = make()
    planned["agent_1"] = FIRST
    manager.run(1)  # founders come with the run's own weight
    manager._learner.kl_weights[1] = 0.5
    manager.run(5)
    assert manager._guard._ladder.rung(1) is Rung.RAISE_KL
    assert float(manager._learner.kl_weights[1]) == 2.0
    planned.clear()
    results = manager.run(1 + GOOD)
    assert steps(results) == [(9, "note", False)]
    assert float(manager._learner.kl_weights[1]) == 0.5
    assert (
        results[-1].guard.agents[1].step.what == "good again, down to note, KL weight back to 0.5"
    )
    assert steps(manager.run(GOOD)) == [(12, "clear", False)]
    manager.close()


def test_a_kl_weight_that_somebody_else_changed_is_not_put_back(planned):
    manager = make()
    planned["agent_1"] = FIRST
    manager.run(6)
    manager._learner.kl_weights[1] = 3.0
    planned.clear()
    manager.run(1 + GOOD)
    assert float(manager._learner.kl_weights[1]) == 3.0
    manager.close()


def test_a_birth_takes_neither_a_raised_kl_weight_nor_the_rung(planned):
    manager = make()
    planned["agent_1"] = FIRST
    manager.run(6)
    manager._learner.kl_weights[1] = 0.1
    step, learned_with = manager._learner.step, []

    def learning(*given, **how):
        learned_with.append(float(manager._learner.kl_weights[1]))
        return step(*given, **how)

    manager._learner.step = learning
    manager.run(1)
    assert learned_with == [KL]  # the newborn's first step, too
    assert float(manager._learner.kl_weights[1]) == KL
    assert manager._guard._acting._raised[1] == (pytest.approx(0.1), KL)
    manager.close()


def test_without_a_learner_there_is_no_kl_weight_to_raise(planned):
    manager = make(settings=config(learner=Learner.NONE))
    planned["agent_1"] = FIRST
    assert [word for _, word, _ in steps(manager.run(9))] == [
        "note",
        "roll_back",
        "replace",
        "stop",
    ]


def test_who_never_was_good_is_replaced_by_the_best_that_was(planned):
    manager = make()
    planned |= {"agent_1": 0, BASE: 1e9}
    manager.ask()
    own = {**manager._lineage.living[1].hyperparameters, "temperature": 1.9}
    manager._lineage.amend(1, hyperparameters=own)
    manager.hyperparameters.write([manager._lineage.living[1]])
    results = manager.run(10)
    assert "temperature" not in manager._lineage.living[1].hyperparameters
    assert len(set(manager.population.temperatures)) == 1  # its own went with it
    assert [word for _, word, _ in steps(results)] == ["note", "raise_kl", "replace", "stop"]
    manager.close()


def test_where_nobody_was_good_the_champion_or_the_base_takes_the_place(planned):
    manager = make(size=1, settings=config(parents=1, elites=1))
    planned["agent_0"] = 1
    manager.run(8)
    individual = manager._lineage.living[0]
    assert (individual.operator, individual.parents) == ("guard", ())
    assert individual.parameters["by"] == "the base"
    assert not any(layer.B[0].any() for layer in manager.population.lora.layers())
    manager.close()
    manager = make(size=1, settings=config(parents=1, elites=1))
    manager.run(1)
    manager.confirm()
    manager._guard._snapshots.clear()
    planned["agent_0"] = 0
    manager.run(8)
    assert manager._lineage.living[0].parents == (manager.champion.individual,)
    manager.close()


def test_newborns_are_held_against_their_parents_snapshot(planned):
    settings = config(evolve_every=2, offspring=1, elites=1, learner=Learner.NONE)
    manager = make(settings=settings)
    manager.run(2)
    held = dict(manager._guard._snapshots)
    (born,) = manager.ask().born
    manager.tell(manager.play(manager.ask()))
    parent = int(born.parents[0].rpartition("-")[2])
    assert manager._guard._snapshots[born.slot] is held[parent]
    manager.close()


def test_the_first_snapshots_are_of_agents_before_they_learned(planned):
    manager = make()
    lora = manager.population.lora
    step = manager._learner.step

    def learned(*given, **how):
        stats = step(*given, **how)
        for layer in lora.layers():
            layer.B[:] += 0.1
        return stats

    manager._learner.step = learned
    born = manager.ask().born
    manager.tell(manager.play(manager.ask()))
    after = [content_hash(lora, slot) for slot in range(3)]
    held = manager._guard._snapshots
    assert [held[i].content_hash for i in range(3)] == [one.content_hash for one in born]
    assert after != [one.content_hash for one in born]  # who was hosted is back
    assert {snapshot.generation for snapshot in held.values()} == {-1}
    assert manager._guard._founders == {}
    manager.close()


def test_before_the_run_stops_all_are_measured_and_the_bad_rolled_back(planned):
    manager = make(settings=config(guard_every=100))
    manager.run(1)
    lora, guard = manager.population.lora, manager._guard
    born = content_hash(lora, 2)
    for _ in range(4):
        guard._ladder.take(1, True, 0)
    for layer in lora.layers():
        layer.B[1:] += 0.1
    planned |= {"agent_1": 0, "agent_2": 0}
    (result,) = manager.run(1)
    assert result.stop.startswith("agent_1: 16 anchors lost")
    own = result.guard.agents
    assert [one.anchors for one in own] == [1.0, 0.0, 0.0]
    for slot in (1, 2):
        assert content_hash(lora, slot) == guard._snapshots[slot].content_hash
    assert content_hash(lora, 2) == born
    assert own[0].step is None
    said = "as the run stops, rolled back to g0-2 as born (16 of 16 anchors)"
    assert (own[2].rung, own[2].step.up, own[2].step.what) == (Rung.CLEAR, False, said)
    assert own[1].step.what.startswith("stays bad after all of that: the run stops; as the run")
    manager.close()


def test_a_flag_asks_for_a_measurement_of_that_agent_alone(planned):
    manager = make(settings=config(guard_every=100))
    manager.run(3)
    watch = manager._guard.watch

    def flagged(transcripts, generation):
        watch(transcripts, generation)
        signals, flags = manager._guard._seen
        flags = [[], [], [Flag(Signal.LENGTH, 99.0, 9.0, 20.0)]]
        manager._guard._seen = signals, flags

    manager._guard.watch = flagged
    reports = [result.guard for result in manager.run(4)]
    measured = [[own.agent for own in r.agents if own.anchors is not None] for r in reports]
    # Not again at once, if the last measurement was good.
    assert measured == [["agent_2"], [], ["agent_2"], []]
    assert [report.replies for report in reports] == [ANCHORS, 0, ANCHORS, 0]
    for _ in range(2):
        manager._guard._ladder.take(2, True, 6)
    later = [result.guard.agents[2].anchors is not None for result in manager.run(2)]
    assert later == [False, True]  # the KL weight is given time, flags or not
    manager.close()


def test_agents_that_only_propose_are_watched_and_never_measured():
    population = LoraPopulation(make_tiny_base(), 4, 2)
    settings = config(proposers=2, guard_every=1, rewards="learnability", parents=1)
    manager = EvolutionManager(population, "self-play:expressions(digits=1)", settings)
    (result,) = manager.run(1)
    measured = [own.anchors is not None for own in result.guard.agents]
    assert measured == [False, False, True, True]
    assert all(own.signals["length"] is not None for own in result.guard.agents[:2])
    manager.close()


def test_broken_individuals_are_left_to_evolution(planned):
    manager = make()
    manager.run(1)
    next(manager.population.lora.layers()).B[1] = float("nan")
    planned["agent_1"] = 0
    results = manager.run(4)
    assert results[-1].guard.agents[1].verdict is None
    assert results[-1].guard.agents[0].verdict is not None
    manager.close()


def test_rows_say_all_of_it(tmp_path, planned):
    planned["agent_1"] = FIRST
    manager = make(tmp_path)
    results = manager.run(5)
    rows = [json.loads(line) for line in (tmp_path / "guard.jsonl").read_text().splitlines()]
    assert [(r["generation"], r["agent"]) for r in rows] == [
        (g, f"agent_{i}") for g in range(5) for i in range(3)
    ]
    noted = rows[13]
    assert (noted["rung"], noted["step"], noted["up"]) == ("note", "note", True)
    assert noted["verdict"]["bad"]
    assert noted["verdict"]["tests"]["snapshot"]["worse"] == ANCHORS
    assert noted["anchors"] == 0.0
    assert noted["base_anchors"] == 1.0
    assert rows[12]["rung"] == "clear"
    assert rows[3]["anchors"] is None
    assert results[0].guard.replies == FIRST
    assert sum(r.guard.replies for r in results) == manager._guard._anchors.replies
    (line,) = results[4].guard.lines
    assert line.startswith("agent_1 (g0-1): noted as worse; 16 anchors lost and 0 won against")
    assert (
        results[4].guard.summary
        == "3 measured: 0.00 to 1.00 of the anchors right (base 1.00), 1 bad"
    )
    manager.close()


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 5, 6, 8, 9])
def test_a_resumed_run_is_guarded_as_if_it_had_never_stopped(tmp_path, planned, cut):
    settings = config(evolve_every=3, offspring=1)
    planned |= {"agent_1": FIRST, "agent_2": FIRST + 5 * ANCHORS}
    whole = make(tmp_path / "whole", settings)
    whole.run(9)
    whole.close()
    parts = make(tmp_path / "parts", settings)
    parts.run(min(cut, 9))
    parts.close()
    manager = make(settings=settings)
    manager.resume(tmp_path / "parts")
    manager.run(9 - manager.generation)
    manager.close()
    last = f"generation_{whole.generation - 1:04d}"
    files = ["history.jsonl", "transcripts.jsonl", "guard.jsonl", "lineage.json"]
    files += [f"{last}/state.json", f"{last}/state.safetensors"]
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


@pytest.mark.slow
def test_a_guard_may_be_set_on_a_run_that_had_none_and_taken_off_again(tmp_path, planned):
    first = make(tmp_path, config(guard="off"))
    first.run(2)
    first.close()
    second = make(settings=config())
    second.resume(tmp_path)
    second.run(3)
    second.close()
    assert second._guard._snapshots
    third = make(settings=config(guard="off"))
    third.resume(tmp_path)
    assert third.run(1)[0].guard is None
    third.close()
    rows = [json.loads(line) for line in (tmp_path / "guard.jsonl").read_text().splitlines()]
    assert {row["generation"] for row in rows} == {2, 3, 4}


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{"guard_from": "procedural:gcd"}, {"solve_tokens": 5}])
def test_on_other_anchors_what_was_measured_is_forgotten_and_the_rungs_stay(
    tmp_path, planned, changed
):
    planned["agent_1"] = FIRST
    first = make(tmp_path)
    first.run(5)
    first.close()
    second = make(settings=config(**changed))
    second.resume(tmp_path)
    assert second._guard._base == ()
    assert second._guard._snapshots == {}
    assert second._guard._ladder.rung(1) is Rung.NOTE
    second.close()
    with pytest.raises(CheckpointError):
        make(settings=config(), size=4).resume(tmp_path)
