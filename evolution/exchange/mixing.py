"""Mixing: weights of members in a sum, searched for on fresh training problems."""

from typing import TYPE_CHECKING

import numpy as np

from evolution.exchange.step import EXCHANGES, Exchanged, ExchangeStep
from evolution.lowrank.genomes import Genome, read_genome, write_genome
from evolution.lowrank.sums import both_lost, weighted_sum
from evolution.operators.selection import ranking

if TYPE_CHECKING:
    from cmaes import CMA

_ATTENTION = ("attn", "attention")


@EXCHANGES.add("cma_es", problems=(1, 4096), rounds=(1, 1000), sigma=(1e-3, 2))
def cma_es(
    step: ExchangeStep,
    *,
    problems: int = 24,
    rounds: int = 4,
    sigma: float = 0.3,
    modules: bool = False,
) -> list[Exchanged]:
    """The least fit of a home replaced by the best mix of all that CMA-ES finds.

    Gradient-free search for weights as in LoraHub (Huang et al., 2023, arXiv:2307.13269), by the
    covariance matrix adaptation of Hansen (2016, arXiv:1604.00772). It starts from equal weights; a
    round tries as many mixes as the home has members, all decoded at once in their slots, and all
    rounds meet the same problems.

    Args:
        step: The members.
        problems: Fresh training problems that every mix answers.
        rounds: Generations of the search.
        sigma: First standard deviation of a weight, in units of an equal share.
        modules: Whether attention and the rest get weights of their own.
    """
    made: list[Exchanged] = []
    if step.is_founding:
        return made
    from cmaes import CMA  # brings SciPy's statistics: most of a second at every start

    for number, home in enumerate(step.homes):
        sound = step.sound(home)
        count = len(sound)
        if count < 2:
            continue
        slots = sound.tolist()
        before = {slot: read_genome(step.lora, slot) for slot in slots}
        members = [before[slot] for slot in slots]
        places = _parts([layer.name for layer in step.lora.layers()], modules)
        size = int(places.max() + 1)
        seed = int(step.generator("cma_es", number).integers(2**31))
        search = CMA(np.ones(count * size), sigma, seed=seed, population_size=max(count, 4))
        try:
            found = _search(step, slots, members, places, search, rounds, problems)
        finally:
            for slot in slots:
                write_genome(step.lora, slot, before[slot])
        if found is None:  # no problem has a known answer
            continue
        (score, vector), tried = found
        broken = [slot for slot in home.tolist() if slot not in slots]
        mixed, error = _mixed(members, vector, places)
        order = ranking(step.standing[sound])
        worst = broken[0] if broken else slots[int(order[-1])]
        error = both_lost(error, write_genome(step.lora, worst, mixed))
        parents = tuple(slots[i] for i in order.tolist())
        weights = (vector.reshape(size, count)[:, order] / count).round(4).tolist()
        notes = {
            "weights": weights if size > 1 else weights[0],
            "accuracy": round(score, 4),
            "mixes": tried,
            "recompression_error": round(error, 6),
        }  # fmt: skip
        made.append(Exchanged(worst, parents, notes))
    return made


def _search(
    step: ExchangeStep,
    slots: list[int],
    members: list[Genome],
    places: np.ndarray,
    search: "CMA",
    rounds: int,
    problems: int,
) -> tuple[tuple[float, np.ndarray], int] | None:
    """The best mix with its score, and how many were tried; None where nothing is known of any.

    Members' slots hold mixes when it ends.
    """
    best: tuple[float, np.ndarray] | None = None
    tried, count = 0, len(slots)
    for turn in range(rounds):
        asked = [search.ask() for _ in range(search.population_size)]
        if turn == 0:
            asked[0] = np.ones(len(asked[0]))  # the plain mean is among them
        scores: list[float] = []
        for start in range(0, len(asked), count):
            batch = asked[start : start + count]
            for slot, vector in zip(slots, batch, strict=False):
                mixed, _ = _mixed(members, vector, places)
                write_genome(step.lora, slot, mixed)
            marks = step.measure(slots[: len(batch)], problems)
            if not marks.shape[1]:
                return None
            scores += marks.mean(1).tolist()
        tried += len(asked)
        for score, vector in zip(scores, asked, strict=True):
            if best is None or score > best[0]:
                best = score, vector
        search.tell([(x, -score) for x, score in zip(asked, scores, strict=True)])
    assert best is not None
    return best, tried


def _parts(names: list[str], modules: bool) -> np.ndarray:
    """Which weights each layer takes, ``[layers]``: 0, or 1 outside attention."""
    if not modules:
        return np.zeros(len(names), dtype=int)
    own = [not any(word in name for word in _ATTENTION) for name in names]
    return np.array(own, dtype=int) if any(own) and not all(own) else np.zeros(len(names), int)


def _mixed(members: list[Genome], vector: np.ndarray, places: np.ndarray) -> tuple[Genome, float]:
    shares = vector.reshape(-1, len(members)) / len(members)
    return weighted_sum(members, shares[places])
