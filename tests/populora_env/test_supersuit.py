"""SuperSuit's vectors of arenas.

In one process: with ``num_cpus`` it copies observations that are arrays, and takes no texts.
"""

import pytest

from populora_env import Problem, parallel_env

supersuit = pytest.importorskip("supersuit")


def test_arenas_in_a_vector():
    arena = parallel_env([Problem.create("2 + 3 =", "5")], num_agents=3, evaluation="none", seed=1)
    vector = supersuit.pettingzoo_env_to_vec_env_v1(arena)
    games = supersuit.concat_vec_envs_v1(vector, 2, num_cpus=0, base_class="gymnasium")
    try:
        seen, _ = games.reset(seed=4)
        assert len(seen["prompt"]) == 6
        assert all("2 + 3 =" in prompt for prompt in seen["prompt"])
        rewards = games.step(["5", "6", "5", "4", "5", "5"])[1]
        best = rewards.max()
        assert list(rewards == best) == [True, False, True, False, True, True]
    finally:
        games.close()
