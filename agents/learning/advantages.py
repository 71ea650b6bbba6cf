"""Advantages: how much better than expected each reply did, from rewards within groups.

A group is a set of replies that can be compared, such as all agents' replies to one problem. Every
function takes the rewards and the groups of a whole step and returns an array of the same length.
A reward that is NaN means that the reply has none: it takes part in no mean and no deviation, and
its advantage is NaN, which the learners leave out. A reply without a rival in its group, and
replies whose rewards are all equal, have advantage 0 wherever there is a group baseline.

Add one with ``@ADVANTAGES.add("name")``; then ``EvolutionConfig(advantage="name")`` takes it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from populora_env.settings import Registry

Advantage = Callable[[Sequence[float], Sequence[str]], np.ndarray]

ADVANTAGES = Registry[Advantage]("advantage")

_FLAT = 1e-8  # differences up to this are floating-point noise of equal rewards


@ADVANTAGES.add("rloo")
def rloo(rewards: Sequence[float], groups: Sequence[str]) -> np.ndarray:
    """Reward minus the mean of the others in the group, scaled over the step.

    The baseline is REINFORCE leave-one-out (Kool et al., 2019; Ahmadian et al., 2024,
    arXiv:2402.14740), which is unbiased because a reply is no part of its own baseline. The
    scale is one for all groups (as in REINFORCE++), so no group's gradient is blown up.

    Args:
        rewards: Reward of each reply, ``[M]``; NaN where there is none.
        groups: Group of each reply (say, its problem's id), ``[M]``.

    Returns:
        The differences divided by their standard deviation over the step, ``[M]``.

    Raises:
        ValueError: If the lengths differ or a reward is infinite.
    """
    step = _Step(rewards, groups)
    return step.whole(_scaled(step.difference * step.count / np.maximum(step.count - 1, 1)))


@ADVANTAGES.add("grpo")
def grpo(rewards: Sequence[float], groups: Sequence[str]) -> np.ndarray:
    """Reward minus the group's mean, divided by the group's standard deviation.

    GRPO (Shao et al., 2024, arXiv:2402.03300), with the sample standard deviation (divisor n - 1)
    as TRL and verl have it. Dividing by each group's own deviation favours problems that nearly
    all or nearly none solve (Liu et al., 2025, arXiv:2503.20783). The other bias described there,
    towards long wrong replies, comes from averaging within each reply first; the learners here
    average over all of an agent's tokens and do not have it.

    Args, returns and errors are those of `rloo`.
    """
    step = _Step(rewards, groups)
    squares = np.bincount(step.member, weights=step.difference**2)[step.member]
    deviation = np.sqrt(squares / np.maximum(step.count - 1, 1))
    return step.whole(step.difference / np.where(deviation > _FLAT, deviation, 1.0))


@ADVANTAGES.add("dr_grpo")
def dr_grpo(rewards: Sequence[float], groups: Sequence[str]) -> np.ndarray:
    """Reward minus the group's mean, in units of the reward.

    Dr. GRPO (Liu et al., 2025, arXiv:2503.20783): GRPO without its division.

    Args, returns and errors are those of `rloo`.
    """
    step = _Step(rewards, groups)
    return step.whole(step.difference)


@ADVANTAGES.add("reinforce++")
def reinforce_plus_plus(rewards: Sequence[float], groups: Sequence[str]) -> np.ndarray:
    """Reward normalised over the whole step, whatever the groups.

    REINFORCE++ (Hu, 2025, arXiv:2501.03262): the baseline and the scale are the mean and the
    standard deviation of all rewards. Problems that everybody solves are rewarded, too.

    Args, returns and errors are those of `rloo`.
    """
    step = _Step(rewards, groups)
    return step.whole(_scaled(step.values - (step.values.mean() if len(step.values) else 0.0)))


@ADVANTAGES.add("reinforce++-baseline")
def reinforce_plus_plus_baseline(rewards: Sequence[float], groups: Sequence[str]) -> np.ndarray:
    """Reward minus the group's mean, normalised over the whole step.

    The variant with a group baseline of REINFORCE++ (Hu, 2025, arXiv:2501.03262), meant for
    several replies to one problem. The differences have mean 0 by themselves.

    Args, returns and errors are those of `rloo`.
    """
    step = _Step(rewards, groups)
    return step.whole(_scaled(step.difference))


class _Step:
    """The rewards that are known.

    Attributes:
        values: The rewards, ``[known]``.
        member: Number of each one's group.
        count: Size of each one's group.
        difference: Each one minus the mean of its group; exactly 0 where all are equal.
    """

    def __init__(self, rewards: Sequence[float], groups: Sequence[str]) -> None:
        given = np.asarray(rewards, dtype=np.float64)
        if len(given) != len(groups):
            raise ValueError(
                f"groups: got {len(groups)}, expected one for each of the {len(given)} rewards"
            )
        if np.isinf(given).any():
            raise ValueError(
                f"rewards: got {given[np.isinf(given)][0]}, expected finite numbers, or NaN for a "
                "reply without a reward"
            )
        self._known = ~np.isnan(given)
        self.values = given[self._known]
        names = [group for group, known in zip(groups, self._known, strict=True) if known]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self.member = np.array([numbers[name] for name in names], dtype=np.intp)
        self.count = np.bincount(self.member)[self.member]
        mean = np.bincount(self.member, weights=self.values)[self.member] / self.count
        difference = self.values - mean
        self.difference = np.where(np.abs(difference) > _FLAT, difference, 0.0)

    def whole(self, known: np.ndarray) -> np.ndarray:
        """Put NaN where there is no reward, ``[M]``."""
        result = np.full(len(self._known), np.nan)
        result[self._known] = known
        return result


def _scaled(difference: np.ndarray) -> np.ndarray:
    """Divide by the standard deviation over the step; zeros where nothing differs."""
    deviation = difference.std() if len(difference) else 0.0
    return difference / deviation if deviation > _FLAT else np.zeros_like(difference)
