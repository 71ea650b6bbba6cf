"""Exchanges in which members move to a mean: of each other, or back to where they started.

Every member of a home gets the same weights, so these are for members that learn between exchanges.
They start equal: adapters drawn apart read different subspaces, which no adapter of the same rank
holds together. Those that were given, or exchanged in another way before, start at their mean: it
is all that their first exchange comes to. Optimiser states stay with their slots, since the
coordinates nearly do; see `evolution.lowrank.sums`. A member of another rank than the first gets
the best update of its own, and a new state.
"""

from collections.abc import Callable, Sequence

import numpy as np

from evolution.exchange.step import EXCHANGES, Exchanged, ExchangeStep
from evolution.lowrank.genomes import Genome, read_genome, write_genome
from evolution.lowrank.sums import both_lost, inner_products, weighted_sum

Notes = dict[str, float]
Move = Callable[[int, Sequence[Genome], Genome], tuple[Genome, Notes]]


@EXCHANGES.add_central("average", rate=(0, 2), momentum=(0, 0.999))
def average(step: ExchangeStep, *, rate: float = 1.0, momentum: float = 0.0) -> list[Exchanged]:
    """Members replaced by their mean, or by an outer optimiser's step towards it.

    With ``d`` from the last common update to the members' mean, the velocity ``v`` becomes
    ``momentum v + d`` and the common update moves by ``rate (d + momentum v)``: Nesterov's step as
    in DiLoCo (Douillard et al., 2023, arXiv:2311.08105). By default the common update is the mean:
    local SGD (Stich, 2019, arXiv:1805.09767).

    Args:
        step: The members.
        rate: Share of the way that the common update goes; 1 is the mean itself.
        momentum: What is left of the velocity at the next exchange.
    """

    def move(number: int, members: Sequence[Genome], before: Genome) -> tuple[Genome, Notes]:
        mean = np.full(len(members), 1 / len(members))
        if rate == 1 and momentum == 0:
            after, error = weighted_sum(members, mean)
        else:
            # In terms of members, the common update and the velocity, which is a genome as well.
            velocity = step.recall(f"{number}.velocity", before)
            terms, kept = [*members, before], [*mean, -1.0]
            if velocity is not None:
                terms, kept = [*terms, velocity], [*kept, momentum]
            moving, _ = weighted_sum(terms, kept)
            weights = [*((1 + momentum) * rate * mean), 1 - (1 + momentum) * rate]
            if velocity is not None:
                weights.append(rate * momentum**2)
            after, error = weighted_sum(terms, weights)
            step.remember(f"{number}.velocity", moving)
        step.remember(f"{number}.common", after)
        return after, {"recompression_error": round(error, 6)}

    return _move_together(step, move)


@EXCHANGES.add_central("towards_start", share=(0, 1))
def towards_start(step: ExchangeStep, *, share: float = 0.3) -> list[Exchanged]:
    """Members replaced by their spherical mean, moved towards where they started.

    Layer by layer, the mean of what members learned since the start is brought to the mean of
    their lengths, since averages of different directions are short, and then shortened: merging and
    interpolation of WARP (Ramé et al., 2024, arXiv:2406.16768), whose spherical interpolation of
    two this is for any number.

    Args:
        step: The members.
        share: Of the way back to the start.
    """

    def move(number: int, members: Sequence[Genome], start: Genome) -> tuple[Genome, Notes]:
        del number
        count = len(members)
        dots = inner_products([*members, start])
        apart = np.eye(count, count + 1)
        apart[:, -1] = -1  # members minus the start
        inner = np.einsum("ia,lab,jb->lij", apart, dots, apart)
        lengths = np.sqrt(np.maximum(np.einsum("lii->li", inner), 0)).mean(1)
        length = np.sqrt(np.maximum(inner.mean((1, 2)), 0))
        stretch = np.divide(lengths, length, out=np.ones_like(length), where=length > 1e-12)
        each = (1 - share) * np.minimum(stretch, count) / count
        weights = np.concatenate([np.repeat(each[:, None], count, 1), 1 - count * each[:, None]], 1)
        after, error = weighted_sum([*members, start], weights)
        stretched = round(float(stretch.mean()), 4)
        return after, {"recompression_error": round(error, 6), "stretched": stretched}

    return _move_together(step, move)


def _move_together(step: ExchangeStep, move: Move) -> list[Exchanged]:
    """Write to all members of each home what their genomes and the common one come to."""
    made: list[Exchanged] = []
    for number, home in enumerate(step.homes):
        if step.is_founding:
            step.remember(f"{number}.common", step.begin_equal(home))
            continue
        sound = step.sound(home)
        if len(sound):
            members = [read_genome(step.lora, slot, copy=False) for slot in sound.tolist()]
            common = step.recall(f"{number}.common", members[0])
            if common is None:
                after, error = weighted_sum(members, np.full(len(members), 1 / len(members)))
                step.remember(f"{number}.common", after)
                notes = {"recompression_error": round(error, 6)}
            else:
                after, notes = move(number, members, common)
            made += _spread_to(step, home, sound, after, notes)
    return made


def _spread_to(
    step: ExchangeStep,
    home: np.ndarray,
    sound: np.ndarray,
    genome: Genome,
    notes: Notes,
) -> list[Exchanged]:
    """Write a genome to all of a home; those that broke begin anew with it."""
    parents = sound.tolist()
    made: list[Exchanged] = []
    for slot in home.tolist():
        cut = write_genome(step.lora, slot, genome)
        lost = round(both_lost(notes["recompression_error"], cut), 6)
        own = slot if slot in parents else None
        others = [p for p in parents if p != slot]
        line = tuple(others if own is None else [own, *others])
        state = own if int(step.lora.ranks[slot]) == genome.rank else None
        made.append(Exchanged(slot, line, notes | {"recompression_error": lost}, moments=state))
    return made
