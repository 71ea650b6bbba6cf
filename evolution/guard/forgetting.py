"""The forgetting set: what the base could do and no run trains.

The base answers a few prompts about nothing in particular, once and greedily. Afterwards an agent
is asked, at two places of each of these replies, how likely it finds the token that the base wrote.
That needs no answer to be right, so it means something for any model; and where an agent finds most
of them unlikely, it has forgotten more than a format.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.population import BASE, LoraPopulation
from evolution.guard.probing import Place, knows_distributions, logs, next_tokens
from populora_env.records import Phase, Request

PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Name three colours.",
    "What do bees make?",
    "Translate into French: Good morning.",
    "Who wrote Romeo and Juliet?",
    "Finish the sentence: The cat sat on the",
    "What is the opposite of hot?",
    "Give another word for happy.",
    "List two kinds of fruit.",
    "Greet a friend politely.",
    "What is ice made of?",
    "Which animal barks?",
    "Name a planet.",
    "Explain in one sentence what a book is.",
    "Which season comes after winter?",
)
_TOKENS = 16  # of a reply of the base, at most


class Forgetting:
    """Measures what agents have forgotten.

    Args:
        population: Whose members are measured.

    Attributes:
        asked: Replies of the base and places of agents that were asked for so far.
    """

    def __init__(self, population: LoraPopulation) -> None:
        self._population = population
        self._known: list[dict[str, Any]] = []  # of each place: prompt, ids before, token, its log
        self.asked = 0

    def losses(self, agents: Sequence[str]) -> dict[str, np.ndarray]:
        """Nats a token by which the base's replies have become less likely, ``[prompts]`` each.

        Empty where the engine tells no distributions, or the base writes nothing.

        Args:
            agents: Whose adapters are asked.
        """
        if not agents or not knows_distributions(self._population):
            return {}
        if not self._known:
            self._learn_the_base()
        places = [Place(agent, tuple(k["ids"])) for agent in agents for k in self._known]
        if not places:
            return {}
        found = logs(next_tokens(self._population, places)).numpy()
        self.asked += len(places)
        tokens = np.tile([known["token"] for known in self._known], len(agents))
        own = found[np.arange(len(places)), tokens].reshape(len(agents), -1)
        lost = np.array([known["log"] for known in self._known]) - own
        of = np.array([known["prompt"] for known in self._known])
        prompts = np.unique(of)
        means = np.stack([lost[:, of == prompt].mean(1) for prompt in prompts], axis=1)
        return dict(zip(agents, means, strict=True))

    def _learn_the_base(self) -> None:
        """Have the base answer, and look at its replies' first tokens and those half way."""
        asked = [Request(BASE, Phase.SOLVE, prompt, _TOKENS) for prompt in PROMPTS]
        limit = self._population.context
        fits = [r for r in asked if not limit or len(r.prompt.encode()) + 64 + _TOKENS <= limit]
        if not fits:
            return
        replies = self._population.generate(fits, temperature=0.0, overlong="empty")
        self._population.forget()
        places: list[tuple[int, tuple[int, ...], int]] = []
        for number, reply in enumerate(replies):
            for before in sorted({0, len(reply.reply_ids) // 2}):
                if before < len(reply.reply_ids):
                    ids = (*reply.prompt_ids, *reply.reply_ids[:before])
                    places.append((number, ids, reply.reply_ids[before]))
        if not places:
            return
        found = logs(next_tokens(self._population, [Place(BASE, ids) for _, ids, _ in places]))
        self.asked += len(replies) + len(places)
        self._known = [
            {"prompt": number, "ids": list(ids), "token": token, "log": float(found[row, token])}
            for row, (number, ids, token) in enumerate(places)
        ]

    def state(self) -> dict[str, Any]:
        """As JSON types."""
        return {"known": self._known, "asked": self.asked}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Read back what `state` gave."""
        self._known, self.asked = list(saved["known"]), int(saved["asked"])
