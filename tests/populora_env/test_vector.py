"""Vectors of environments, in processes of their own."""

import gymnasium

import populora_env  # noqa: F401 - registers the environment


def test_async_vectors_show_what_sync_ones_show():
    seen = []
    for mode in ("async", "sync"):
        vector = gymnasium.make_vec(
            "populora/ReasoningSolo-v0", num_envs=2, vectorization_mode=mode
        )
        try:
            first, _ = vector.reset(seed=[1, 2])
            second, rewards, *_ = vector.step(("#### 5", "π ≤ \ud800"))
        finally:
            vector.close()
        assert first["prompt"][0] != first["prompt"][1]
        seen.append([*first["prompt"], *second["prompt"], *second["phase"], *rewards.tolist()])
    assert seen[0] == seen[1]
