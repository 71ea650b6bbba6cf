"""Finished cells of a study that nobody played, with accuracies that are known."""

from __future__ import annotations

import numpy as np

from evolution.studies.measured import BASE, Cell, Measured, text_of
from evolution.studies.results import changed, settings_of
from populora_env.keys import generator


def measured(seed, arm, budget, chance, members=3, problems=64):
    """Members that each get a problem right with a chance; harder problems are harder for all."""
    hard = generator("hard", seed).uniform(-0.3, 0.3, problems)
    rng = generator("cell", arm, seed, budget)
    right = rng.random((members, problems)) < np.clip(chance + hard, 0, 1)
    vote = right.mean(axis=0)
    return Measured(
        budget=budget,
        replies=budget + 6,
        generations=budget // 12,
        seconds=budget / 20,
        champion=text_of(right[0].tolist()),
        members=tuple(text_of(own.tolist()) for own in right),
        vote=text_of((vote > 0.5).tolist()),
        ties={str(i): 0.5 for i in np.flatnonzero(vote == 0.5)},
        average=text_of((right.mean(axis=0) > 0.4).tolist()),
        vendi=1 + 0.1 * members,
        vendi_answers=None,
    )


def cell(study, arm, seed, chance, growth=0.0, **changes):
    """An arm's cell; the chance is that of its first budget, and grows from one to the next."""
    own, problems = study.arms[arm], changes.pop("problems", f"digest {seed}")
    members = own.config(seed).size
    found = [
        measured(seed, arm, budget, chance + k * growth, members, study.held_out)
        for k, budget in enumerate(own.replies or (0,))
    ]
    settled = dict(
        arm=arm, seed=seed, settings=changed(settings_of(own.config(seed))), budgets=own.replies,
        seconds_limit=study.seconds, cut_off=False, problems=problems, measured=tuple(found),
        seconds=found[-1].seconds, measuring_seconds=3.0, tokens=1000,
        curves={"replies": (12.0,), "return": (0.1,), "accuracy": (None,)},
    )  # fmt: skip
    return Cell(**{**settled, **changes})


def cells(study, chances, growth=0.0):
    """Cells of all arms and seeds, by arm and seed."""
    return {
        arm: {
            seed: cell(study, arm, seed, chances.get(arm, 0.3), growth * (arm != BASE))
            for seed in study.seeds
        }
        for arm in study.arms
    }
