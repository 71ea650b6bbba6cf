"""Reevaluations, with members whose answers are planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.peft_io import read_adapter
from agents.population import LoraPopulation
from evolution.config import EvolutionConfig
from evolution.individuals.champion import Champion, hosting
from evolution.individuals.lineage import Individual
from evolution.individuals.reevaluation import Reevaluations, outdoes
from evolution.individuals.standing import Standing
from evolution.lowrank.genomes import content_hash, factors_hash
from evolution.lowrank.sums import mean_of_members
from populora_env import Grader, Problem
from tests.conftest import make_tiny_base

PROBLEMS = [Problem.create(f"{i} + {i}", str(2 * i)) for i in range(20)]
LIVING = {i: Individual(f"g0-{i}", i, 0, "spread") for i in range(4)}


@pytest.fixture
def grader():
    with Grader() as own:
        yield own


class Planted(Reevaluations):
    """The mark on an adapter says how much of the problems it answers rightly."""

    asked: list[list[int]]

    def _right(self, slots, problems):
        self.asked = [*getattr(self, "asked", []), list(slots)]
        shares = [float(self._population.lora.alpha[slot]) / 100 for slot in slots]
        return np.array(
            [np.arange(len(problems)) < round(s * len(problems)) for s in shares], float
        )


def make(grader, skills, standings, kind=Planted, **settings):
    population = LoraPopulation(make_tiny_base(), 4, 2)
    for slot, skill in enumerate(skills):
        population.lora.set_alpha(slot, 100 * skill)
    standing = Standing(4, 0.8)
    standing.update(np.array(standings), np.full(4, 0.1))
    quick = {"learner": "none", "elites": 1, "parents": 1, "solve_tokens": 4, **settings}
    config = EvolutionConfig(**quick)
    known = config.resolved(4)
    trials = kind(population, config, known, grader, lambda generation, count: PROBLEMS)
    return population, standing, trials


def test_the_first_champion_is_the_best_by_standing(grader):
    population, standing, trials = make(grader, [0.5, 0.6, 0.7, 0.8], [0, 3, 1, 2])
    assert trials.hold(standing, LIVING, 1) is None
    assert trials.champion.agent == "agent_1"
    assert trials.champion.content_hash == content_hash(population.lora, 1)
    assert trials.elites == {"g0-1"}


def test_a_lucky_newcomer_does_not_push_a_proven_elite_out(grader):
    _, standing, trials = make(grader, [0.9, 0.3, 0.2, 0.1], [3, 2, 1, 0])
    trials.hold(standing, LIVING, 1)
    for _ in range(2):  # two lucky generations
        standing.update(np.array([0.0, 6.0, 0.0, 0.0]), np.full(4, 0.1))
    assert standing.values.argmax() == 1
    trial = trials.hold(standing, LIVING, 2)
    assert trial.accuracy == {0: pytest.approx(0.9), 1: pytest.approx(0.3)}
    assert trials.champion.agent == "agent_0"
    assert not trial.replaced
    assert trials.champion.accuracy == pytest.approx(0.9)


def test_a_better_newcomer_does(grader):
    _, standing, trials = make(grader, [0.3, 0.9, 0.2, 0.1], [3, 2, 1, 0])
    trials.hold(standing, LIVING, 1)
    standing.update(np.array([0.0, 6.0, 0.0, 0.0]), np.full(4, 0.1))
    trial = trials.hold(standing, LIVING, 2)
    assert trial.replaced
    assert (trials.champion.agent, trials.elites) == ("agent_1", {"g0-1"})
    assert trial.champion == pytest.approx(0.3)


def test_the_champion_survives_what_becomes_of_its_slot(grader):
    population, standing, trials = make(grader, [0.9, 0.3, 0.2, 0.1], [3, 2, 1, 0])
    trials.hold(standing, LIVING, 1)
    kept = trials.champion.content_hash
    population.lora.set_alpha(0, 10.0)  # learning went wrong
    trial = trials.hold(standing, LIVING, 2)
    assert (trial.accuracy, trial.champion) == ({0: 0.1}, pytest.approx(0.9))
    assert trials.champion.content_hash == kept != content_hash(population.lora, 0)
    assert float(population.lora.alpha[0]) == 10  # it is back in its slot


def test_nothing_is_asked_where_nothing_is_in_question_or_no_answer_is_known(grader):
    population, standing, trials = make(grader, [0.9, 0.3, 0.2, 0.1], [3, 2, 1, 0])
    trials.hold(standing, LIVING, 1)
    assert trials.hold(standing, LIVING, 2) is None
    assert not hasattr(trials, "asked")
    trials._fresh = lambda generation, count: []
    population.lora.set_alpha(0, 10.0)
    assert trials.hold(standing, LIVING, 3) is None
    assert trials.champion.content_hash == content_hash(population.lora, 0)


def test_a_broken_individual_is_neither_elite_nor_champion(grader):
    population, standing, trials = make(grader, [0.9, 0.3, 0.2, 0.1], [3, 2, 1, 0])
    next(population.lora.layers()).A[0] = float("nan")
    trials.hold(standing, LIVING, 1)
    assert (trials.champion.agent, trials.elites) == ("agent_1", {"g0-1"})


def test_real_members_answer_and_the_visitor_leaves_no_trace(grader):
    population, standing, trials = make(grader, [0.02] * 4, [3, 2, 1, 0], kind=Reevaluations)
    trials.hold(standing, LIVING, 1)
    drawn = torch.Generator().manual_seed(0)
    for layer in population.lora.layers():
        layer.B[0] = torch.randn(layer.B[0].shape, generator=drawn)
    before = content_hash(population.lora, 0)
    trial = trials.hold(standing, LIVING, 2)
    assert content_hash(population.lora, 0) == before
    assert trial.problems == 20
    assert set(trial.accuracy) == {0}
    assert trial.champion is not None


class OfMembers(Planted):
    """Members answer most problems rightly, and what is no member a few."""

    def _right(self, slots, problems):
        self.asked = [*getattr(self, "asked", []), list(slots)]
        known = [content_hash(self._population.lora, slot) for slot in slots]
        shares = [0.9 if own in self.members else 0.2 for own in known]
        return np.array([np.arange(len(problems)) < s * len(problems) for s in shares], float)


def vary(lora, slots):
    draws = torch.Generator().manual_seed(sum(slots))
    for layer in lora.layers():
        for slot in slots:
            layer.B[slot] = torch.randn(layer.B[slot].shape, generator=draws)


def make_averaged(grader, **settings):
    """Trials of four different members that exchange their mean."""
    population, standing, trials = make(
        grader, [0.02] * 4, [3, 2, 1, 0], kind=OfMembers, exchange="average",
        learner="policy-gradient", confirm_problems=16, **settings,
    )  # fmt: skip
    vary(population.lora, range(4))
    trials.members = {content_hash(population.lora, slot) for slot in range(4)}
    return population, standing, trials


def test_the_mean_is_the_champion_where_members_exchange_it(grader):
    population, standing, trials = make_averaged(grader)
    next(population.lora.layers()).B[1] = float("nan")  # no part of it
    trials.hold(standing, LIVING, 1)
    champion, mean = trials.champion, mean_of_members(population.lora, [0, 2, 3])
    assert champion.is_mean
    assert champion.content_hash == factors_hash(mean.alpha, mean.factors)
    for mine, theirs in zip(champion.genome.factors, mean.factors, strict=True):
        assert all(map(torch.equal, mine, theirs))
    assert champion.individual == "g0-0"  # of the best of them


def test_a_mean_is_tried_against_the_one_before_and_is_nobodys_figure(grader):
    population, standing, trials = make_averaged(grader)
    trials.hold(standing, LIVING, 1)
    first = trials.champion
    vary(population.lora, [3])
    trial = trials.hold(standing, LIVING, 2)
    assert (trial.accuracy, trial.champion, trial.replaced) == ({}, 0.2, False)
    assert trials.champion.content_hash == first.content_hash
    assert [len(slots) for slots in trials.asked] == [1, 1]


@pytest.mark.parametrize("learner", ["none", "policy-gradient"])
def test_with_a_learner_standing_alone_chooses_until_the_end(grader, learner):
    population, standing, trials = make(grader, [0.9, 0.1, 0.5, 0.5], [3, 0, 1, 1], learner=learner)
    trials.hold(standing, LIVING, 1)
    population.lora.set_alpha(0, 10.0)  # learning went wrong
    standing.update(np.array([0, 9, 0, 0]), np.full(4, 0.1))
    trial = trials.hold(standing, LIVING, 2)
    assert (trial is None) == (learner != "none")
    assert trials.champion.agent == ("agent_0" if trial else "agent_1")


class InOrder(Planted):
    """What each genome answers rightly of 20, by its content; what is not known, none."""

    right: dict[str, int]

    def _right(self, slots, problems):
        self.asked = [*getattr(self, "asked", []), list(slots)]
        known = [content_hash(self._population.lora, slot) for slot in slots]
        return np.array([np.arange(20) < self.right.get(own, 0) for own in known], float)


def candidates(grader, right=(9, 5, 7, 3), average=8, **settings):
    """Trials before which agent_0 is the champion."""
    population, standing, trials = make(
        grader, [0.02] * 4, [3, 2, 1, 0], kind=InOrder, **settings
    )  # fmt: skip
    vary(population.lora, range(4))
    trials._fresh = lambda generation, count, what="trial": PROBLEMS[:count]
    trials.hold(standing, LIVING, 1)
    known = [content_hash(population.lora, slot) for slot in range(4)]
    mean = mean_of_members(population.lora, [0, 1, 2, 3])
    trials.right = dict(zip(known, right, strict=True))
    trials.right[factors_hash(mean.alpha, mean.factors)] = average
    return population, standing, trials


@pytest.mark.parametrize(
    ("right", "average", "kept"),
    [
        ((9, 5, 7, 3), 8, "champion"),
        ((5, 5, 7, 3), 8, "average"),
        ((5, 5, 9, 3), 8, "agent_2"),
        ((8, 8, 8, 8), 8, "champion"),
        ((5, 8, 8, 3), 8, "average"),
        ((5, 8, 8, 3), 7, "agent_1"),
    ],
)
def test_who_gets_most_right_in_the_last_trial_is_kept(grader, right, average, kept):
    _, standing, trials = candidates(grader, right, average)
    before = trials.champion
    champion, trial = trials.choose(standing, LIVING, 1)
    assert trials.champion is before  # until the run ends
    assert trial.kept == kept
    assert trial.problems == 20
    assert trial.accuracy == {
        "champion": right[0] / 20, "average": average / 20,
        **{f"agent_{slot}": right[slot] / 20 for slot in (1, 2, 3)},  # agent_0 is the champion
    }  # fmt: skip
    assert champion.accuracy == trial.accuracy[kept]
    assert champion.is_mean == (kept == "average")
    assert trials.right[champion.content_hash] == 20 * champion.accuracy


def test_a_champion_of_before_is_a_candidate_of_its_own(grader):
    population, standing, trials = candidates(grader)
    first = trials.champion.content_hash
    vary(population.lora, [0])  # it went on learning, to nothing
    champion, trial = trials.choose(standing, LIVING, 2)
    assert (trial.kept, trial.accuracy["agent_0"]) == ("champion", 0)
    assert champion.content_hash == first


def test_broken_ones_are_no_candidates_and_those_who_write_neither(grader):
    population, standing, trials = candidates(grader, proposers=1, solvers=3)
    next(population.lora.layers()).B[2] = float("nan")
    _, trial = trials.choose(standing, LIVING, 1)
    assert set(trial.accuracy) == {"champion", "average", "agent_3"}  # agent_1 is the champion


@pytest.mark.parametrize(
    "settings",
    [{"last_trial": 0}, {"gate": "paired(margin=0.1,error=0.1,most=64,step=16)"}],
)
def test_there_may_be_no_last_trial(grader, settings):
    _, standing, trials = candidates(grader, (0, 5, 7, 3), **settings)
    assert trials.choose(standing, LIVING, 1) is None


def test_nobody_chooses_without_problems_or_where_there_is_but_one(grader):
    _, standing, trials = candidates(grader, (0, 5, 7, 3))
    trials._fresh = lambda generation, count, what="trial": []
    assert trials.choose(standing, LIVING, 1) is None
    _, standing, trials = candidates(grader, (0, 5, 7, 3), proposers=3, solvers=1)
    trials.asked = []
    assert trials.choose(standing, LIVING, 1) is None
    assert trials.asked == []


def test_means_alone_are_candidates_where_members_exchange_them(grader):
    _, standing, trials = candidates(
        grader, (20, 20, 20, 20), exchange="average", learner="policy-gradient"
    )
    assert trials.champion.is_mean
    assert trials.choose(standing, LIVING, 1) is None  # it is the mean of now
    vary(trials._population.lora, [3])
    _, trial = trials.choose(standing, LIVING, 2)
    assert set(trial.accuracy) == {"champion", "average"}


def test_hosting_brings_the_guests_own_rank_and_scale_and_takes_them_away(grader):
    population = LoraPopulation(make_tiny_base(), 2, (2, 4))
    lora = population.lora
    draws = torch.Generator().manual_seed(3)
    for layer in lora.layers():
        layer.A.normal_(generator=draws)
        layer.B.normal_(generator=draws)
    lora.enforce_ranks()
    guest = Champion.of(population, 1, Individual("g0-1", 1, 0, "spread"), 1)
    before = content_hash(lora, 0)
    with hosting(lora, 0, guest.genome):
        assert content_hash(lora, 0) == guest.content_hash
        assert lora.ranks.tolist() == [4, 4]
    assert content_hash(lora, 0) == before
    assert lora.ranks.tolist() == [2, 4]


def test_a_champion_is_saved_restored_and_written_as_an_adapter(tmp_path):
    population = LoraPopulation(make_tiny_base(), 2, 2)
    draws = torch.Generator().manual_seed(3)
    for layer in population.lora.layers():
        layer.B.normal_(generator=draws)
    champion = Champion.of(population, 1, Individual("g0-1", 1, 0, "spread"), 3)
    again = Champion.restore(champion.state())
    assert (again.individual, again.generation) == ("g0-1", 3)
    with hosting(population.lora, 0, again.genome):
        assert content_hash(population.lora, 0) == champion.content_hash
    folder = champion.save(population, tmp_path / "best")
    population.load_adapter("agent_0", folder)
    assert content_hash(population.lora, 0) == champion.content_hash
    assert read_adapter(folder).rank == 2


def test_a_challenger_must_lead_by_as_much_as_is_asked():
    better, holder = np.array([1, 1, 1, 0, 1, 0.0]), np.array([1, 0, 1, 0, 1, 0.0])
    assert outdoes(better, holder, 0)
    assert not outdoes(better, holder, 2)
    assert not outdoes(holder, holder, 0)
    assert outdoes(holder, holder, -1)
    assert outdoes(holder, better, -3)
    assert not outdoes(holder, better, -0.5)
