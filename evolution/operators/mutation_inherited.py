"""Mutations of what an individual inherits besides its weights: strength and hyperparameters.

Both live in its record in the lineage. A newborn starts with the geometric mean of its parents'
strengths and with the hyperparameters of its best parent.
"""

import math
from collections.abc import Mapping

import numpy as np

from agents.engine.adapters import StackedLora
from evolution.operators.mutation import MUTATIONS, MutationStep

HYPERPARAMETERS = {
    "learning_rate": (1e-6, 1e-2),
    "kl": (1e-4, 1.0),
    "temperature": (0.2, 2.0),
}
"""Least and greatest value of hyperparameters; others are only kept above 0."""

_STRENGTH = (0.1, 10.0)  # bounds of the factor that adapts itself


@MUTATIONS.add("self_adaptation", tau=(0, 2))
def self_adaptation(lora: StackedLora, step: MutationStep, *, tau: float = 0.3) -> None:
    """Each member's own factor on the strength of the noise after it, times ``exp(tau * z)``.

    As in evolution strategies (Schwefel, 1977), a child inherits the factor that made it what it
    is; it stays between 0.1 and 10. Rates and fractions are not touched.
    """
    del lora
    for member in step.members:
        drawn = member.strength * math.exp(tau * step.generator(member).standard_normal())
        member.strength = min(max(drawn, _STRENGTH[0]), _STRENGTH[1])


@MUTATIONS.add("hyperparameters", factor=(1, 100), resample=(0, 1))
def hyperparameters(
    lora: StackedLora, step: MutationStep, *, factor: float = 1.25, resample: float = 0.1
) -> None:
    """What a member has of its own, as in population-based training: its learning rate.

    Its weight of KL and its temperature, too, where its record has them.
    """
    del lora
    for member in step.members:
        member.hyperparameters = perturb_hyperparameters(
            member.hyperparameters, step.generator(member), factor=factor, resample=resample
        )


def perturb_hyperparameters(
    values: Mapping[str, float],
    rng: np.random.Generator,
    *,
    factor: float = 1.25,
    resample: float = 0.0,
) -> dict[str, float]:
    """Explore hyperparameters as population-based training does (Jaderberg et al., 2017).

    Args:
        values: By name, above 0; those in `HYPERPARAMETERS` stay in their bounds.
        rng: Source of the draws.
        factor: Each value is multiplied or divided by this, with equal chance.
        resample: Chance that one with bounds is drawn anew between them, log-uniformly.
    """
    explored: dict[str, float] = {}
    for name, value in sorted(values.items()):
        least, most = HYPERPARAMETERS.get(name, (0.0, math.inf))
        anew, up, place = rng.random(3)
        if anew < resample and 0 < least < most < math.inf:
            value = least * (most / least) ** place
        else:
            value = value * factor if up < 0.5 else value / factor
        explored[name] = float(min(max(value, least), most))
    return explored
