"""A judge behind an OpenAI-compatible server.

What goes over the network, and how failures are kept from the episode, is in `chat.api`.
"""

from collections.abc import Sequence
from typing import Unpack

from populora_env.chat.api import ChatOptions, ModelOnServer
from populora_env.judges.builtin import verdict_of
from populora_env.prompts import ATTEMPT_LIMIT, clip, compare_prompt
from populora_env.records import Comparison, Verdict


class HttpJudge(ModelOnServer):
    """A language model on a server that says which of two attempts is better.

    Each comparison is shown as an agent of the arena would see it. Equal prompts of one batch are
    asked once. A request that fails is an abstention with `ReplyStatus.FAILED`. Copies, pickled
    ones too, have the same settings and connections of their own.

    Args:
        model: The model's name on the server.
        base_url: Address of the server; see `ChatClient`.
        api_key: See `ChatClient`.
        seed: Sent with every request, or None. The default temperature is 0.
        limit: Characters of each attempt that are shown.
        **options: More settings of `ChatClient`. A model that thinks before it answers needs a
            larger ``max_tokens`` than the default of 256.

    Raises:
        ImportError: If the package ``openai`` is missing.
        TypeError: If an argument is of another type.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        seed: int | None = None,
        limit: int = ATTEMPT_LIMIT,
        **options: Unpack[ChatOptions],
    ) -> None:
        clip(" " * (limit + 1), limit)  # raises where the limit is too small
        self._seed, self._limit = seed, limit
        super().__init__(model, base_url, api_key, **options)

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Return one verdict for each comparison, in order."""
        shown = [compare_prompt(comparison, self._limit) for comparison in comparisons]
        asked = list(dict.fromkeys(shown))
        seeds = None if self._seed is None else [self._seed] * len(asked)
        replies = self._client.complete_many(asked, seeds=seeds)
        verdicts = dict(zip(asked, map(verdict_of, replies), strict=True))
        return [verdicts[prompt] for prompt in shown]
