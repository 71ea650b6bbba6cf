"""Audit of self-play: do proposals collapse?

Proposers can end up with near-copies of one problem, with what everybody or nobody solves, with
repeats, or with what is no task. Looked at are the first and the last fifth of a run's generations
together, so that single generations say little. Proposals that were held-out problems say nothing
of their authors and are left out.

How new a proposal is goes by the last `WINDOW` of its kind, the same number at all times: among a
pool that fills up everything becomes less new.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from itertools import combinations
from re import findall

import numpy as np

from evolution.reporting.measures.audits import Audit, Verdict
from evolution.reporting.measures.proposals import Proposed, mean_of
from evolution.reporting.measures.trends import MIN_POINTS
from populora_env.keys import generator
from populora_env.proposals.record import ProposalStatus
from populora_env.proposals.source import novelty

WINDOW = 32  # proposals among which the nearest is looked for
PAIRS = 2_000  # of normal forms, by which variety is measured
MIN_FORMS = 5  # normal forms in each of the two parts: ten pairs at least
MIN_PROPOSALS = 10  # in each of the two parts, from which something is read
EASY, ALL_EASY = 0.7, 0.9  # shares of what everybody solves, or nobody
LOST, ALL_LOST = 0.75, 0.9  # shares that are not valid
AGAIN, ALL_AGAIN = 0.5, 0.75  # shares that are repeats
LEFT, LITTLE_LEFT = 0.8, 0.6  # of novelty, variety and kinds
FELL_BY = 0.1  # a share that fell by it is mending, and is only watched for its height


def proposals_collapse(proposed: Sequence[Proposed]) -> Audit:
    """Look for proposers that end in a corner.

    Args:
        proposed: All proposals of a run, in order.
    """
    name = "proposals collapse"
    rule = (
        f"Compares the proposals of the first and the last fifth of the generations, without "
        f"held-out ones. Watch: in the last fifth all attempts at {EASY:.0%} of the proposals with "
        f"two at least are right, or at {EASY:.0%} all are wrong; or {LOST:.0%} are not valid, or "
        f"{AGAIN:.0%} repeats, unless that share has fallen by {FELL_BY}; or less than {LEFT:.0%} "
        f"is left of the novelty (distance to the nearest of the last {WINDOW} of its kind), of "
        "the variety (distance between two of a part's normal forms, repeats among them) or of "
        "the kinds (perplexity of the kinds of valid ones). Shares count if they are as high by a "
        f"standard error, or 1. Problem: {ALL_EASY:.0%}, {ALL_LOST:.0%}, {ALL_AGAIN:.0%}; less "
        f"than {LITTLE_LEFT:.0%}."
    )
    told = [p for p in proposed if p.proposal.status is not ProposalStatus.HELD_OUT]
    generations = sorted({entry.generation for entry in told})
    part = max(len(generations) // 5, 2)
    first = [entry for entry in told if entry.generation in generations[:part]]
    last = [entry for entry in told if entry.generation in generations[-part:]]
    if len(generations) < MIN_POINTS or min(len(first), len(last)) < MIN_PROPOSALS:
        reason = (
            f"Fewer than {MIN_POINTS} generations have proposals, or fewer than {MIN_PROPOSALS} "
            "are in their first or last fifth."
        )
        return Audit(name, Verdict.CANNOT_TELL, reason, rule, {})
    figures: dict[str, float] = {}
    said: list[tuple[int, str]] = []
    shares = (
        ("solved by all", _all_right, EASY, ALL_EASY),
        ("solved by nobody", _all_wrong, EASY, ALL_EASY),
        ("not valid", _invalid, LOST, ALL_LOST),
        ("repeats", _repeated, AGAIN, ALL_AGAIN),
    )
    for what, mark, watch, problem in shares:
        before, after = ([m for e in era if (m := mark(e)) is not None] for era in (first, last))
        if len(after) < MIN_PROPOSALS:
            continue
        start, end = mean_of(before), sum(after) / len(after)
        figures |= {f"last share {what}": end}
        mending = start is not None and end <= start - FELL_BY
        error = _error(sum(after), len(after))
        level = (end - error >= watch and not mending) + (end - error >= problem)
        level = 2 if end == 1.0 else level
        shown = f"{end:.0%} are {what}"
        if start is not None:
            figures |= {f"first share {what}": start}
            shown += f" (at first {start:.0%})"
        said.append((level, shown))
    new = _novelties(told)
    distances = (
        ("novelty", [mean_of([new.get(id(e)) for e in era]) for era in (first, last)]),
        ("variety", [_variety(era) for era in (first, last)]),
        ("number of kinds", [_kinds(era) for era in (first, last)]),
    )
    for what, (start, end) in distances:
        if start is None or end is None:
            continue
        figures |= {f"first {what}": start, f"last {what}": end}
        left = end / start if start > 0 else 1.0
        level = (left < LEFT) + (left < LITTLE_LEFT)
        if level or what != "number of kinds":
            said.append((level, f"{what} went from {start:.2f} to {end:.2f}"))
    level = max(level for level, _ in said)
    verdict = (Verdict.FINE, Verdict.WATCH, Verdict.PROBLEM)[level]
    said.sort(key=lambda entry: -entry[0])
    text = "; ".join(shown for own, shown in said if own or not level)
    return Audit(name, verdict, f"In the last fifth of the generations {text}.", rule, figures)


def _error(count: float, total: int) -> float:
    """Return a share's standard error, as if one more of each sort had been seen."""
    share = (count + 1) / (total + 2)
    return math.sqrt(share * (1 - share) / (total + 2))


def _all_right(entry: Proposed) -> float | None:
    return float(all(entry.marks)) if len(entry.marks) > 1 else None


def _all_wrong(entry: Proposed) -> float | None:
    return float(not any(entry.marks)) if len(entry.marks) > 1 else None


def _invalid(entry: Proposed) -> float:
    return float(not entry.proposal.valid)


def _repeated(entry: Proposed) -> float:
    return float(entry.proposal.status is ProposalStatus.REPEATED)


def _parts(key: str) -> tuple[str, ...]:
    """Return the parts of a normal form."""
    return tuple(findall(r"\w+|[^\w\s]", key[:2_000]))


def _novelties(proposed: Sequence[Proposed]) -> dict[int, float]:
    """Return how new each valid proposal is, by its identity, once enough came before it."""
    recent: dict[str, deque[tuple[str, ...]]] = defaultdict(lambda: deque(maxlen=WINDOW))
    found: dict[int, float] = {}
    for entry in proposed:
        if entry.proposal.valid:
            before, parts = recent[entry.proposal.kind], _parts(entry.proposal.key)
            if len(before) == WINDOW:
                found[id(entry)] = novelty(parts, before)
            before.append(parts)
    return found


def _variety(proposed: Sequence[Proposed]) -> float | None:
    """Return the mean distance of two normal forms of a kind; None below `MIN_FORMS`."""
    kinds: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for entry in proposed:
        if entry.proposal.key:
            kinds[entry.proposal.kind].append(_parts(entry.proposal.key))
    if sum(map(len, kinds.values())) < MIN_FORMS:
        return None
    distances: list[float] = []
    rng = generator("report variety", 0)
    for own in kinds.values():
        every = list(combinations(own, 2))
        order = rng.permutation(len(every))[: PAIRS // len(kinds)]
        distances += [novelty(every[i][0], [every[i][1]]) for i in order.tolist()]
    return float(np.mean(distances)) if distances else None


def _kinds(proposed: Sequence[Proposed]) -> float | None:
    """Return how many kinds valid proposals have in effect: the perplexity of their shares."""
    counts = Counter(entry.proposal.kind for entry in proposed if entry.proposal.valid)
    total = counts.total()
    if total < MIN_PROPOSALS:
        return None
    return math.exp(-sum(k / total * math.log(k / total) for k in counts.values()))
