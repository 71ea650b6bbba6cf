"""What the guard watches in every generation, for each agent; nothing here says good or bad.

Signals are cheap and can be wrong in both directions: agents that learn write shorter, surer
replies, and one that copies may look as always. So they only raise flags; see
`evolution.guard.flags`.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np

from agents.engine.jobs import BASE
from agents.population import LoraPopulation
from evolution.fitness.task import mean_of
from evolution.guard.probing import (
    Place,
    divergences,
    entropies,
    knows_distributions,
    next_tokens,
)
from evolution.lowrank.layers import update_norms
from populora_env.episodes.rewards import RewardPart
from populora_env.keys import Key, generator
from populora_env.records import Phase, Transcript, Turn

PLACES = 4  # in replies of an agent, at which its next token is compared with the base's


class Signal(StrEnum):
    """What is watched."""

    DIVERGENCE = "divergence"
    """KL(agent ‖ base) in nats a token, at places of its own replies drawn by chance."""
    ENTROPY = "entropy"
    """Entropy of its next token there, in nats."""
    LENGTH = "length"
    """Mean characters of its attempts and proposals."""
    REPETITION = "repetition"
    """Mean share of their words that were there before."""
    GAP = "gap"
    """How right it is called by whoever labels its attempts, minus how right it is."""
    NORM = "norm"
    """Frobenius norm of its update, all layers together."""


Signals = Mapping[Signal, np.ndarray]
"""Values by signal, ``[N]``; NaN where not known."""


def read_signals(
    transcripts: Sequence[Transcript], population: LoraPopulation, key: Sequence[Key]
) -> tuple[dict[Signal, np.ndarray], int]:
    """All signals of a generation, and how many places were asked for.

    Call it before agents learn from these replies, while the population recalls them.

    Args:
        transcripts: Of the population's agents.
        population: Who wrote them.
        key: Of the places that are looked at.
    """
    turns = _written(transcripts, population.agents)
    divergence, entropy, asked = _of_tokens(turns, population, key)
    texts = [[turn.reply for turn in own] for own in turns]
    return {
        Signal.DIVERGENCE: divergence,
        Signal.ENTROPY: entropy,
        Signal.LENGTH: np.array([mean_of([len(text) for text in own]) for own in texts]),
        Signal.REPETITION: np.array([mean_of([repetition(t) for t in own]) for own in texts]),
        Signal.GAP: gaps(transcripts, population.agents),
        Signal.NORM: update_norms(population.lora),
    }, asked


def repetition(text: str) -> float:
    """Share of a text's words that were there before; 0 without words."""
    words = text.lower().split()
    return 1 - len(set(words)) / len(words) if words else 0.0


def gaps(transcripts: Sequence[Transcript], agents: Sequence[str]) -> np.ndarray:
    """How right attempts are called for the reward minus how right they are, ``[N]``.

    0 where the known answer is the label; NaN where no attempt has both.
    """
    found: dict[str, list[float]] = {agent: [] for agent in agents}
    for transcript in transcripts:
        called: dict[str, list[float | None]] = {}
        for turn in transcript.turns:
            if turn.phase is Phase.SOLVE:
                part = turn.parts.get(RewardPart.CORRECTNESS.value)
                called.setdefault(turn.agent, []).append(part)
        right: dict[str, list[bool | None]] = {}
        for attempt in transcript.attempts:
            right.setdefault(attempt.agent, []).append(attempt.correct)
        for agent, labels in called.items():
            # One turn for each attempt, in the same order.
            for label, truth in zip(labels, right.get(agent, []), strict=False):
                if label is not None and truth is not None:
                    found[agent].append(label - truth)
    return np.array([mean_of(found[agent]) for agent in agents])


def _written(transcripts: Sequence[Transcript], agents: Sequence[str]) -> list[list[Turn]]:
    """Attempts and proposals of each agent, ``[N][...]``."""
    own: dict[str, list[Turn]] = {agent: [] for agent in agents}
    for transcript in transcripts:
        for turn in transcript.turns:
            if turn.phase in (Phase.SOLVE, Phase.PROPOSE):
                own[turn.agent].append(turn)
    return list(own.values())


def _of_tokens(
    turns: Sequence[Sequence[Turn]], population: LoraPopulation, key: Sequence[Key]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Divergence and entropy ``[N]`` each, and how many places were asked for."""
    divergence, entropy = np.full((2, len(turns)), np.nan)
    places: list[Place] = []
    owners: list[int] = []
    if not knows_distributions(population):
        return divergence, entropy, 0
    for slot, own in enumerate(turns):
        known = [found for turn in own if (found := population.recall(turn.reply_id)) is not None]
        known = [found for found in known if found.reply_ids]
        if not known:
            continue
        drawn = generator("guard", *key, slot)
        agent = population.agents[slot]
        for _ in range(PLACES):
            reply = known[int(drawn.integers(len(known)))]
            before = int(drawn.integers(len(reply.reply_ids)))
            ids = (*reply.prompt_ids, *reply.reply_ids[:before])
            places += [Place(agent, ids), Place(BASE, ids)]
            owners.append(slot)
    if not places:
        return divergence, entropy, 0
    found = next_tokens(population, places)
    apart, spread = divergences(found[0::2], found[1::2]), entropies(found[0::2])
    for slot in set(owners):
        own = np.array(owners) == slot
        divergence[slot], entropy[slot] = apart[own].mean(), spread[own].mean()
    return divergence, entropy, len(places)
