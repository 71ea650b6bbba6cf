"""Runs in which agents write the problems, on a tiny random model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agents.population import LoraPopulation
from evolution import ConfigError, EvolutionConfig, EvolutionManager
from evolution.config import RunConfig
from evolution.fitness.proposals import proposal_scores
from evolution.learning import gather_samples
from evolution.run_problems import held_out_problems
from populora_env import Problem, load_problems
from populora_env.proposals.record import ProposalStatus
from populora_env.proposals.task import TASKS, NotATask, TextTask
from populora_env.records import Phase
from tests.conftest import make_tiny_base

SPEC = "self-play:test_counts"


def count_of(text):
    """How many characters a text has is a problem of it; two in five texts are none."""
    if len(text) % 5 < 2:
        raise NotATask(ProposalStatus.UNREADABLE, "of a length that is not wanted")
    return Problem.create(f"Count: {text[:30]}", str(len(text)))


@pytest.fixture(autouse=True)
def counts(monkeypatch):
    make = lambda: TextTask("test_counts", "Write.", count_of, ["abc", "abcd", "ab"])  # noqa: E731
    monkeypatch.setitem(TASKS, "test_counts", make)


def config(**settings):
    quick = dict(problems_per_generation=6, judged_problems=0, solve_tokens=6, propose_tokens=5,
                 proposers=2, spread=0.5, mutation=0.1, elites=1, evolve_every=1, offspring=1,
                 rewards="learnability", diversity_bar="none", confirm_problems=4)  # fmt: skip
    return EvolutionConfig(**{**quick, **settings})


def make(folder=None, size=5, problems=SPEC, **settings):
    population = LoraPopulation(make_tiny_base(), size, 2)
    return EvolutionManager(population, problems, config(**settings), folder=folder)


def as_json(transcripts):
    return [transcript.to_dict() for transcript in transcripts]


def test_proposers_take_turns_and_solvers_solve_what_is_valid():
    manager = make(tries=2)
    transcripts = manager.play(manager.ask())
    assert [t.proposal.agent for t in transcripts] == ["agent_0", "agent_1"] * 3
    for transcript in transcripts:
        solvers = {attempt.agent for attempt in transcript.attempts}
        if transcript.proposal.valid:
            assert solvers == {"agent_2", "agent_3", "agent_4"}
            assert len(transcript.attempts) == 6
        else:
            assert not solvers
    result = manager.tell(transcripts)
    scores = result.scores
    mine = [t.rewards["agent_1"] for t in transcripts if t.proposal.agent == "agent_1"]
    assert scores.returns[1] == pytest.approx(np.mean(mine))
    valid = [t for t in transcripts if t.proposal.valid]
    assert valid
    assert scores.returns[3] == pytest.approx(np.mean([t.rewards["agent_3"] for t in valid]))
    assert np.isnan(scores.accuracy[:2]).all()
    assert np.isfinite(scores.accuracy[2:]).all()
    assert result.proposals.valid == len(valid)
    manager.close()


def test_playing_a_plan_twice_gives_the_same():
    manager = make()
    plan = manager.ask()
    assert as_json(manager.play(plan)) == as_json(manager.play(plan))
    manager.close()


def test_roles_breed_among_themselves_and_only_solvers_are_champions():
    manager = make(size=6, proposers=3)
    manager.run(5)
    children = [i for i in manager.lineage if i.parents]
    assert {child.slot < 3 for child in children} == {True, False}
    slots = {individual.name: individual.slot for individual in manager.lineage}
    for child in children:
        assert {slots[parent] < 3 for parent in child.parents} == {child.slot < 3}
    assert manager.champion.agent in ("agent_3", "agent_4", "agent_5")
    leads = manager.standing
    assert np.isfinite(leads).all()
    manager.close()


def test_children_inherit_the_rating_of_their_role():
    manager = make(size=6, proposers=3, evolve_every=50)
    manager.run(3)
    rated = set(manager.ratings.to_dict())
    assert {name.partition(":")[2] for name in rated} <= {"proposer", "solver"}
    assert all((int(name[6]) < 3) == name.endswith("proposer") for name in rated)
    manager.close()


def test_learning_holds_proposals_against_proposals_and_leaves_held_out_ones_out():
    manager = make()
    transcripts = manager.play(manager.ask())
    samples = gather_samples(transcripts, manager.population, manager.config)
    written = [s for s in samples if s.agent < 2]
    assert len(written) == 6
    rewards = [t.rewards[t.proposal.agent] for t in transcripts]
    order = np.argsort([s.advantage for s in written])
    assert np.all(np.diff(np.array(rewards)[order]) >= 0)
    solved = [s for s in samples if s.agent >= 2]
    assert len(solved) == sum(len(t.attempts) for t in transcripts)
    manager.close()


def test_one_proposer_and_one_solver_learn_from_each_other():
    manager = make(size=2, proposers=1, tries=3, offspring=0, parents=1, problems_per_generation=16)
    transcripts = manager.play(manager.ask())
    samples = gather_samples(transcripts, manager.population, manager.config)
    statuses = {t.proposal.valid for t in transcripts}
    assert statuses == {True, False}
    assert any(s.advantage > 0 for s in samples if s.agent == 0)
    assert [s.agent for s in samples].count(1) == 3 * sum(t.proposal.valid for t in transcripts)
    result = manager.tell(transcripts)
    assert np.isfinite(result.learning.grad_norms).all()
    assert result.learning.grad_norms[0] > 0
    manager.close()


def test_one_agent_alone_does_both():
    manager = make(
        size=1, proposers="all", tries=3, offspring=0, parents=1, problems_per_generation=16
    )
    transcripts = manager.play(manager.ask())
    valid = [t for t in transcripts if t.proposal.valid]
    assert valid
    result = manager.tell(transcripts)
    wrote = np.mean([t.turns[0].reward for t in transcripts])
    solved = np.mean([t.rewards["agent_0"] - t.turns[0].reward for t in valid])
    assert result.scores.returns[0] == pytest.approx(wrote + solved)
    assert manager.champion is None or manager.champion.agent == "agent_0"
    manager.close()


def test_agents_that_do_both_are_one_population():
    manager = make(size=4, proposers="all", solvers=2, problems_per_generation=8)
    results = manager.run(3)
    transcripts = manager.play(manager.ask())
    assert {t.proposal.agent for t in transcripts} == set(manager.population.agents)
    for t in transcripts:
        assert len({a.agent for a in t.attempts}) in (0, 2)
        assert t.proposal.agent not in {a.agent for a in t.attempts}
    assert np.isfinite(results[-1].standing).all()
    manager.close()


def test_a_generation_without_a_valid_proposal_is_played_and_learned_from(monkeypatch):
    def never(_text):
        raise NotATask(ProposalStatus.UNREADABLE, "never")

    manager = make()
    for kind in manager.problems.kinds:
        monkeypatch.setattr(kind, "_make", never)
    result = manager.run(1)[0]
    assert result.proposals.valid == 0
    assert result.scores.returns[0] == -1.0
    assert np.isnan(result.scores.returns[2:]).all()
    assert np.isfinite(manager.standing).all()
    assert "valid 0%" in str(result.proposals)
    manager.close()


@pytest.mark.parametrize("rewards", ["learnability", "progress"])
def test_a_run_resumes_with_its_pool_byte_for_byte(tmp_path, rewards):
    whole = make(tmp_path / "whole", rewards=rewards)
    whole.run(4)
    whole.close()
    half = make(tmp_path / "half", rewards=rewards)
    half.run(2)
    half.play(half.ask())  # killed in the middle of a generation
    half.close()
    again = make(rewards=rewards)
    again.resume(tmp_path / "half")
    again.run(2)
    assert again.problems.state() == whole.problems.state()
    again.close()
    for name in ("transcripts.jsonl", "lineage.json"):
        parts = [(tmp_path / run / name).read_bytes() for run in ("whole", "half")]
        assert parts[0] == parts[1], name
    rows = [
        [json.loads(line) for line in (tmp_path / run / "history.jsonl").read_text().splitlines()]
        for run in ("whole", "half")
    ]
    assert rows[0] == rows[1]
    assert rows[0][0]["proposals"]["count"] == 6


def test_held_out_problems_are_counted_and_nobody_is_paid_for_them():
    first = make()
    proposed = [t.problem for t in first.play(first.ask()) if t.proposal.valid]
    first.close()
    population = LoraPopulation(make_tiny_base(), 5, 2)
    manager = EvolutionManager(population, SPEC, config(), exclude=proposed)
    transcripts = manager.play(manager.ask())
    assert not any(t.proposal.valid for t in transcripts)
    scores = proposal_scores(transcripts, population.agents)
    assert scores.held_out == len(proposed) > 0
    samples = gather_samples(transcripts, population, manager.config)
    unknown = [s for s in samples if np.isnan(s.advantage)]
    assert len(unknown) == len(proposed)
    manager.tell(transcripts)
    manager.close()


def test_solvers_who_gain_pay_their_proposers():
    source = load_problems(SPEC)
    source.tell_gains({"agent_2": 0.5, "agent_3": 0.1})
    assert source.progress(["agent_2", "agent_3"]) == pytest.approx(0.3)
    assert source.progress(["agent_4"]) is None
    manager = make(rewards="progress")
    manager.run(1)
    transcripts = manager.play(manager.ask())
    turns = [t.turns[0] for t in transcripts if t.proposal.valid]
    assert all(turn.phase is Phase.PROPOSE and turn.parts["progress"] is not None for turn in turns)
    manager.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"proposers": "some"}, "proposers: got 'some', expected an integer >= 0, or all"),
        ({"proposers": -1}, "proposers: got -1"),
        ({"proposers": 0, "solvers": 2}, "solvers: got 2, expected none without proposers"),
        ({"islands": 2}, "islands: got 2 with proposers = 2"),
        ({"fitness_scale": "rank"}, "fitness_scale: got 'rank' with proposers = 2"),
    ],
)
def test_settings_that_do_not_go_together(settings, said):
    with pytest.raises(ConfigError) as caught:
        config(**settings)
    assert said in str(caught.value)


def test_too_few_agents_for_the_roles():
    with pytest.raises(ConfigError, match="proposers must be 'all' or an integer from 0 to"):
        make(size=2)
    with pytest.raises(ConfigError, match="the fewest in one role"):
        make(size=3, elites=2)


def test_proposers_go_with_self_play_and_nothing_else():
    with pytest.raises(ConfigError, match="proposers: got 0 with problems self-play:test_counts"):
        make(proposers=0)
    with pytest.raises(ConfigError, match="problems: got procedural:chain_sum with proposers = 2"):
        make(problems="procedural:chain_sum")


def test_held_out_problems_come_from_elsewhere():
    with pytest.raises(ConfigError, match="held_out_from: got '', expected a spec of ordinary"):
        held_out_problems(RunConfig(problems=SPEC, proposers=2))
    given = RunConfig(problems=SPEC, proposers=2, held_out_from="procedural:gcd", held_out=3)
    assert [p.source for p in held_out_problems(given)] == ["procedural:gcd"] * 3


def test_a_curriculum_follows_what_is_solved_and_is_resumed(tmp_path):
    spec = "curriculum:learnability(chain_sum(min_terms=2,max_terms=2))"

    def ordinary(folder):
        return make(folder, size=3, problems=spec, proposers=0, rewards="default", elites=1)

    whole = ordinary(tmp_path / "whole")
    began = whole.problems.state()
    whole.run(3)
    whole.close()
    assert whole.problems.state() != began
    half = ordinary(tmp_path / "half")
    half.run(1)
    half.close()
    again = ordinary(None)
    again.resume(tmp_path / "half")
    again.run(2)
    again.close()
    assert again.problems.state() == whole.problems.state()
    name = "transcripts.jsonl"
    assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_breeding_can_go_by_the_rating_of_ones_role():
    manager = make(size=6, proposers=3, selection="lower_bound(c=3)", evolve_every=2)
    manager.run(2)
    bounds = {
        agent: manager.ratings.lower_bound(f"{agent}:{'proposer' if slot < 3 else 'solver'}")
        for slot, agent in enumerate(manager.population.agents)
    }
    born = [individual.slot for individual in manager.ask().born]
    worst = {min(range(3), key=lambda i: bounds[f"agent_{i}"]),
             min(range(3, 6), key=lambda i: bounds[f"agent_{i}"])}  # fmt: skip
    distinct = len({*bounds.values()}) == 6
    assert not distinct or set(born) == worst
    manager.close()


def test_the_best_is_a_solver_even_if_a_proposer_leads_more():
    manager = make()
    manager.run(1)
    manager._standing._lead[:2] = 50.0
    assert manager.best in ("agent_2", "agent_3", "agent_4")
    manager.close()
    both = make(size=4, proposers="all", elites=1)
    both.run(1)
    both._standing._lead[0] = 50.0
    assert both.best == "agent_0"
    both.close()
