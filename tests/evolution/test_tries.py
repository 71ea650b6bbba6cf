"""One learner or several, each with several replies to every problem."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agents import rollout
from agents.population import LoraPopulation
from evolution import EvolutionConfig, EvolutionManager
from evolution.fitness.task import score
from evolution.learning import gather_samples
from populora_env import Problem, ReasoningArena
from tests.conftest import make_tiny_base

PROBLEMS = [Problem.create("2 + 2 =", "4"), Problem.create("3 + 3 =", "6")]


def config(**settings):
    quick = dict(problems_per_generation=3, judged_problems=1, solve_tokens=6, judge_tokens=3,
                 spread=0.5, learning_rate=0.01, confirm_problems=4, evolve_every=1)  # fmt: skip
    return EvolutionConfig(**{**quick, **settings})


class InTurn:
    """Replies by a script of each agent's own, over and over."""

    def __init__(self, **scripts):
        self._scripts, self._at = scripts, dict.fromkeys(scripts, 0)

    def act(self, requests):
        replies = []
        for request in requests:
            script, at = self._scripts[request.agent], self._at[request.agent]
            replies.append(script[at % len(script)])
            self._at[request.agent] += 1
        return replies


def played(tries, **scripts):
    arenas = [
        ReasoningArena([p], len(scripts), "none", tries=tries, rewards="ground_truth")
        for p in PROBLEMS
    ]
    return rollout(InTurn(**scripts), arenas, PROBLEMS)


def test_all_tries_of_all_agents_at_a_problem_are_rivals():
    transcripts = played(3, agent_0=["4", "9", "9"], agent_1=["9"])
    population = LoraPopulation(make_tiny_base(), 2, 2)
    samples = gather_samples(transcripts, population, config(advantage="dr_grpo"))
    assert [s.agent for s in samples] == [0, 1] * 6
    first, second = np.array([s.advantage for s in samples]).reshape(2, 6)
    rewards = np.array([turn.reward for turn in transcripts[0].turns])
    assert first == pytest.approx(rewards - rewards.mean())
    assert first[0] > 0 > first[1]
    assert second == pytest.approx(np.zeros(6))  # 6 was wanted, and nobody said so


def test_one_agent_is_held_against_itself():
    transcripts = played(4, agent_0=["4", "9", "6", "9"])
    population = LoraPopulation(make_tiny_base(), 1, 2)
    samples = gather_samples(transcripts, population, config())
    signs = np.sign([s.advantage for s in samples]).reshape(2, 4)
    assert signs.tolist() == [[1, -1, -1, -1], [-1, -1, 1, -1]]


@pytest.mark.parametrize("tries", [1, 3])
def test_a_return_is_the_mean_of_the_tries(tries):
    returns, accuracy, length, _ = score(played(tries, agent_0=["4"], agent_1=["4", "77", "77"]))
    once = score(played(1, agent_0=["4"], agent_1=["4"]))[0]
    assert returns[0] == pytest.approx(once[0])
    if tries == 3:
        assert accuracy.tolist() == [0.5, pytest.approx(1 / 6)]
        assert length[1] == pytest.approx(5 / 3)


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_with_tries_learns_saves_and_resumes_byte_for_byte(tmp_path, size):
    settings = config(tries=4, elites=0, offspring=0, parents=1)

    def make(folder=None):
        population = LoraPopulation(make_tiny_base(), size, 2)
        return EvolutionManager(
            population, "procedural:chain_sum(max_terms=2,max_digits=1)", settings, folder=folder
        )

    whole = make(tmp_path / "whole")
    results = whole.run(4)
    assert all(r.learning is not None for r in results)
    assert np.isfinite([r.scores.fitness for r in results]).all()
    assert np.isfinite(whole.standing).all()
    whole.close()
    half = make(tmp_path / "half")
    half.run(2)
    half.close()
    again = make()
    again.resume(tmp_path / "half")
    again.run(2)
    again.close()
    for name in ("history.jsonl", "transcripts.jsonl"):
        one, other = ((tmp_path / folder / name).read_text() for folder in ("whole", "half"))
        rows = [[json.loads(line) for line in text.splitlines()] for text in (one, other)]
        for row in [*rows[0], *rows[1]]:
            row.pop("seconds", None)
        assert rows[0] == rows[1]
