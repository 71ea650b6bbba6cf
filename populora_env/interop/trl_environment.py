"""The arena for one learner as an environment of TRL's trainers: ``environment_factory=``.

TRL's trainer calls a factory for an object, ``reset`` before a rollout, its other public methods as
tools of the model, and ``get_reward`` at the end. TRL is not imported here. For reward functions
and judges see `populora_env.trl`.
"""

from typing import Any

from populora_env.gym.solo import ReasoningSolo

__all__ = ["SoloEnvironment"]

_OVER = "The episode is over."


class SoloEnvironment:
    """A `ReasoningSolo` that a model plays by calling the tool ``reply``.

    Its reward is the sum of the learner's rewards; a model that never replies has 0. The episode's
    prompt is added to the last message of the prompt in the data set. For
    ``GRPOTrainer(environment_factory=...)``, use `functools.partial`, since each rollout has an
    environment of its own.

    Args:
        *arguments: As for `ReasoningSolo`.
        **options: As for `ReasoningSolo`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._solo = ReasoningSolo(*arguments, **options)
        self._reward, self._is_over = 0.0, True

    def reset(self, seed: int | None = None, **row: Any) -> str:
        """Begin an episode.

        Args:
            seed: Of the episode, where the data set has a column of that name: rollouts of one row
                then get the same problem, which group-relative advantages need.
            **row: Other columns; not used.

        Returns:
            What the learner is asked first.
        """
        del row
        seen, _ = self._solo.reset(seed=seed)
        self._reward, self._is_over = 0.0, False
        return str(seen["prompt"])

    def reply(self, text: str) -> str:
        """Give your reply to what you were asked last, and read what you are asked next.

        Args:
            text: The whole reply, such as a solution that ends in its answer.

        Returns:
            What is asked next, or that the episode is over.
        """
        if self._is_over:
            return _OVER
        seen, reward, self._is_over, _, _ = self._solo.step(str(text))
        self._reward += float(reward)
        return _OVER if self._is_over else str(seen["prompt"])

    def get_reward(self) -> float:
        """The sum of the learner's rewards in this episode."""
        return self._reward
