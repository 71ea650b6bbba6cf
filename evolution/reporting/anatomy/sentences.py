"""What the inside of adapters shows, a sentence for each chart, in plain words from the figures.

Nothing is said that the figures do not hold: where all is alike, the sentence says so.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from evolution.reporting.anatomy.ablation import Ablation
from evolution.reporting.anatomy.reading import STILL, Inside, Moves
from evolution.reporting.measures.data import Series

if TYPE_CHECKING:  # which needs torch
    from evolution.lowrank.anatomy import Anatomy

EVEN = 1.25  # times an even share, above which a part stands out
ALIKE, RELATED = 0.9, 0.1  # cosines of pairs that are nearly the same, and of those that share some
FULL, HALF = 0.85, 0.5  # shares of the rank


def sizes(found: "Anatomy") -> str:
    """Say where updates are large, and whose are."""
    squares = (found.norms**2).mean(1)
    if not squares.any():
        return "All updates are zero: every agent answers as the base does."
    said = [
        _where(found, squares, "squared size"),
        _extremes(found.agents, found.total_norms, "largest", "smallest"),
    ]
    relative = np.sqrt(squares) / found.base_norms
    if np.isfinite(relative).all():
        most = int(relative.argmax())
        place = f"{found.modules[most]} of layer {found.blocks[most]}"
        said.append(
            f"The median update is {float(np.median(relative)):.2%} of the base's weights in norm, "
            f"the largest, in {place}, {relative[most]:.2%}."
        )
    return " ".join(filter(None, said))


def differences(found: "Anatomy") -> str:
    """Say how much of the updates agents have in common, and where they differ."""
    if len(found.agents) < 2 or np.isnan(found.common):
        return "There are no two updates to compare."
    common, unrelated = found.common, 1 / len(found.agents)
    if common > 0.999:
        return "All agents carry the same update."
    said = (
        f"{common:.0%} of the agents' updates, in squared size, is common to all of them "
        f"(unrelated agents of one size would have {unrelated:.0%}); the rest is what they "
        "differ in."
    )
    where = _where(found, found.own.mean(1), "difference")
    apart = np.sqrt(found.own.sum(0))
    return f"{said} {where} {_extremes(found.agents, apart, 'farthest from the mean', 'nearest')}"


def overlaps(found: "Anatomy") -> str:
    """Say who is like whom, and whether they read and write the same directions."""
    pairs = _pairs(found.cosines)
    if not len(pairs):
        return "There are no two updates to compare."
    values = np.array([found.cosines[i, j] for i, j in pairs])
    i, j = pairs[int(values.argmax())]
    most = f"{found.agents[i]} and {found.agents[j]}"
    if values.max() < RELATED:
        said = f"No two agents' updates are related (all cosines below {RELATED:g})."
    else:
        unlike = int((np.abs(values) < RELATED).sum())
        rest = f"; {unlike} of {len(values)} pairs are unrelated (below {RELATED:g})"
        said = f"Most alike are {most} (cosine {values.max():.2f}){rest if unlike else ''}."
    read, write = (_mean(own) for own in (found.read_overlaps, found.write_overlaps))
    chance = found.chance
    return (
        f"{said} On average two agents read from {_shared(read, chance[0])} of a layer's input "
        f"(overlap {read:.2f}; unrelated: {chance[0]:.2f}) and write to "
        f"{_shared(write, chance[1])} of its output ({write:.2f}; {chance[1]:.2f})."
    )


def ranks(found: "Anatomy") -> str:
    """Say how many directions updates use of those they may."""
    known = np.isfinite(found.effective_ranks)
    if not known.any():
        return "No update uses any direction."
    mean, stable = float(np.nanmean(found.effective_ranks)), float(np.nanmean(found.stable_ranks))
    rank = found.spectrum.shape[2]
    if mean > FULL * rank:
        said = "nearly all that their rank allows"
    elif mean < HALF * rank:
        said = "less than half of what their rank allows"
    else:
        said = "a good part of what their rank allows"
    by_kind = {kind: _of_kind(found, found.effective_ranks, kind) for kind in found.kinds}
    by_kind = {kind: value for kind, value in by_kind.items() if np.isfinite(value)}
    least, most = min(by_kind, key=lambda k: by_kind[k]), max(by_kind, key=lambda k: by_kind[k])
    spread = ""
    if by_kind[most] - by_kind[least] >= 0.1:
        spread = f" The fewest are in {least} ({by_kind[least]:.1f}), the most in {most} " \
                 f"({by_kind[most]:.1f})."  # fmt: skip
    return (
        f"Updates use {mean:.1f} of {rank} directions in effect, {said} "
        f"(stable rank {stable:.1f}).{spread}"
    )


def drift(found: "Anatomy", moves: Moves) -> str:
    """Say how far agents have moved, and where."""
    values = moves.drift
    known = np.isfinite(values)
    since = "since the oldest generation on disk" if moves.exact else "since birth"
    if not known.any():
        return f"How far agents have moved {since} cannot be told."
    if float(values[known].max()) < STILL:
        return f"No agent's weights have changed {since}."
    names = [name for name, has in zip(found.agents, known, strict=True) if has]
    born = [start for start, has in zip(moves.since, known, strict=True) if has]
    own = values[known]
    far, near = int(own.argmax()), int(own.argmin())
    said = f"{names[far]}'s update has moved farthest {since}, by {own[far]:.1%} of its size then"
    if own[far] >= EVEN * own[near]:
        said += f" ({_start(born[far], moves)}); {names[near]}'s least, by {own[near]:.1%}"
        said += f" ({_start(born[near], moves)})"
    where = _where(found, np.where(known, moves.squares, 0.0).sum(1), "movement")
    return f"{said}. {where}{_together(found, moves)}"


def ablation(measured: Ablation) -> str:
    """Say which blocks an agent's accuracy rests on."""
    said: list[str] = []
    for agent, own in measured.agents.items():
        *single, everything = measured.costs(agent)
        worst = min(range(len(single)), key=lambda place: single[place].value)
        clear = [place for place, change in enumerate(single) if change.high < 0]
        better = [place for place, change in enumerate(single) if change.low > 0]
        accuracy, bare = (sum(marks) / len(marks) for marks in (own.whole, measured.base))
        words = (
            f"{agent} solves {accuracy:.3f} of {measured.problems} training problems, "
            f"{bare:.3f} without its whole adapter: {everything.text()}."
        )
        if clear:
            words += (
                f" Switching off {_layers(measured.blocks[worst])} alone costs most: "
                f"{single[worst].text()}"
            )
            others = [_layers(measured.blocks[place]) for place in clear if place != worst]
            words += f"; also costly: {_listed(others)}." if others else "; no other clearly does."
        else:
            words += " No block of layers alone is needed, as far as these problems tell: "
            if single[worst].value < 0:
                layers = _layers(measured.blocks[worst])
                words += f"the largest loss is {single[worst].text()}, of {layers}."
            else:
                words += "none lowers the accuracy when it is switched off."
        if better:
            words += (
                f" Without {_listed([_layers(measured.blocks[place]) for place in better])} it "
                "solves more."
            )
        said.append(words)
    return " ".join(said)


def summary(inside: Inside) -> str:
    """Say the most important in one sentence, for the head of the page."""
    found, moves = inside.anatomy, inside.moves
    if len(found.agents) < 2 or np.isnan(found.common):
        return ""
    said = f"Of the agents' updates {found.common:.0%} is common to all"
    if found.common < 0.999:
        kind, share = _largest_kind(found, found.own.mean(1))
        said += f"; they differ most in {kind} ({share:.0%} of the difference)"
    if moves is not None and np.isfinite(moves.drift).any():
        since = "the oldest generation on disk" if moves.exact else "birth"
        said += f"; they have moved by {float(np.nanmean(moves.drift)):.1%} since {since}"
    return f"{said}."


def _together(found: "Anatomy", moves: Moves) -> str:
    """Say whether agents have moved in the same direction."""
    pairs = _pairs(moves.cosines)
    if not len(pairs):
        return ""
    values = np.array([moves.cosines[i, j] for i, j in pairs])
    i, j = pairs[int(values.argmax())]
    mean = float(values.mean())
    if mean > ALIKE:
        said = "all in the same direction"
    elif mean > RELATED:
        said = "partly in the same direction"
    else:
        said = "mostly in directions of their own"
    return (
        f" They moved {said} (mean cosine {mean:.2f}; most alike {found.agents[i]} and "
        f"{found.agents[j]}, {values.max():.2f})."
    )


def _where(found: "Anatomy", squares: Series, what: str) -> str:
    """Say which modules and which depths hold more than an even share of a quantity ``[L]``."""
    if not squares.sum() > 0:
        return ""
    kinds = {kind: share for kind in found.kinds if (share := _share(found, squares, kind))}
    even = {kind: _share(found, found.weights, kind) for kind in kinds}
    out = sorted((k for k in kinds if kinds[k] > EVEN * even[k]), key=lambda k: -kinds[k])
    few = sorted((k for k in kinds if even[k] > EVEN * kinds[k]), key=lambda k: kinds[k])
    said = f"The {what} is spread over modules in proportion to their weights"
    if stands := out or few:
        total, own = (sum(of[kind] for kind in stands) for of in (kinds, even))
        has = "holds" if len(stands) == 1 else "hold"
        only = "" if out else "only "
        said = f"{_listed(stands)} {has} {only}{total:.0%} of the {what}"
        said += f", with {own:.0%} of the weights"
    blocks = int(found.blocks.max(initial=-1)) + 1
    if blocks < 3:
        return f"{said}."
    ends = [round(blocks * part / 3) for part in range(4)]
    parts = [(found.blocks >= low) & (found.blocks < high) for low, high in pairwise(ends)]
    thirds = [float(squares[part].sum() / squares.sum()) for part in parts]
    best = int(np.argmax(thirds))
    if thirds[best] <= EVEN / 3:
        return f"{said}; all depths have about the same."
    name = ("first", "middle", "last")[best]
    layers = _layers((ends[best], ends[best + 1] - 1))
    return f"{said}; the {name} third ({layers}) has {thirds[best]:.0%}."


def _extremes(agents: Sequence[str], values: Series, most: str, least: str) -> str:
    """Say who has most and least of something, where that is a difference."""
    known = np.isfinite(values)
    if known.sum() < 2:
        return ""
    high, low = int(np.nanargmax(values)), int(np.nanargmin(values))
    if values[high] < EVEN * values[low]:
        return f"Agents have about as much ({values[low]:.3g} to {values[high]:.3g})."
    return (
        f"{agents[high]} is {most} ({values[high]:.3g}), {agents[low]} {least} ({values[low]:.3g})."
    )


def _share(found: "Anatomy", squares: Series, kind: str) -> float:
    own = np.array([module == kind for module in found.modules])
    return float(squares[own].sum() / squares.sum())


def _largest_kind(found: "Anatomy", squares: Series) -> tuple[str, float]:
    shares = {kind: _share(found, squares, kind) for kind in found.kinds}
    kind = max(shares, key=lambda k: shares[k])
    return kind, shares[kind]


def _of_kind(found: "Anatomy", values: Series, kind: str) -> float:
    own = values[np.array([module == kind for module in found.modules])]
    known = own[np.isfinite(own)]
    return float(known.mean()) if known.size else np.nan


def _pairs(values: Series) -> list[tuple[int, int]]:
    """Pairs of agents of which a value ``[N, N]`` is known."""
    rows, columns = np.triu_indices(len(values), 1)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True)
            if np.isfinite(values[i, j])]  # fmt: skip


def _mean(values: Series) -> float:
    """Mean over pairs of agents of what is known."""
    return float(np.mean([values[i, j] for i, j in _pairs(values)]))


def _shared(overlap: float, chance: float) -> str:
    if overlap > ALIKE:
        return "the same directions"
    if overlap > max(RELATED, 3 * chance):
        return "partly the same directions"
    return "different directions"


def _start(generation: int | None, moves: Moves) -> str:
    if generation is None:
        return "birth not recorded"
    return f"{'since' if moves.exact else 'born in'} generation {generation}"


def _layers(ends: tuple[int, int]) -> str:
    return f"layer {ends[0]}" if ends[0] == ends[1] else f"layers {ends[0]} to {ends[1]}"


def _listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
