"""What the guard saw and did in a generation: rows of ``guard.jsonl``, and words for people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolution.guard.flags import Flag
from evolution.guard.ladder import Rung
from evolution.guard.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Step:
    """A change of rung.

    Attributes:
        rung: Where it led.
        up: Whether it was climbed to; else it was come down to.
        what: What was done, in words.
    """

    rung: Rung
    up: bool
    what: str


@dataclass(frozen=True, slots=True)
class Watched:
    """What is known of one agent in a generation.

    Attributes:
        agent: Who.
        individual: Who lives in its slot.
        signals: Values by signal's name; None where not known.
        flags: Signals that left what was usual.
        anchors: Share of the anchors that it got right; None where it was not measured.
        forgotten: Median over prompts of the nats a token by which the base's replies became less
            likely; None where it was not measured.
        verdict: What measuring it came to.
        rung: Where its slot stands now.
        step: What changed, if anything did.
    """

    agent: str
    individual: str
    signals: Mapping[str, float | None] = field(hash=False)
    flags: tuple[Flag, ...] = ()
    anchors: float | None = None
    forgotten: float | None = None
    verdict: Verdict | None = None
    rung: Rung = Rung.CLEAR
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What the guard saw and did in a generation.

    Attributes:
        agents: All of them, in the population's order.
        base: Share of the anchors that the bare base gets right; None before it was measured.
        replies: Replies on anchors that were asked for in this generation, those of the base among
            them.
        places: Places in texts whose next token was asked for in it: a reply of one token each.
        stop: Why the run is to stop; empty if it is not.
        seconds: Wall-clock time of it.
    """

    agents: tuple[Watched, ...]
    base: float | None
    replies: int
    places: int
    stop: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def lines(self) -> list[str]:
        """What a person has to know: steps with their evidence, flags that came to nothing."""
        said: list[str] = []
        for own in self.agents:
            if own.verdict is None:
                continue
            flags = f"; flags: {', '.join(map(str, own.flags))}" if own.flags else ""
            if own.step is not None:
                said.append(
                    f"{own.agent} ({own.individual}): {own.step.what}; {own.verdict}{flags}"
                )
            elif own.verdict.bad:
                word = own.rung.word.replace("_", " ")
                said.append(
                    f"{own.agent} ({own.individual}): still bad, at {word}; {own.verdict}{flags}"
                )
        return said

    @property
    def summary(self) -> str:
        """How many agents were measured, and how they did; empty if none was."""
        known = [own.anchors for own in self.agents if own.anchors is not None]
        if not known:
            return ""
        bad = sum(own.verdict is not None and own.verdict.bad for own in self.agents)
        shares = f"{min(known):.2f} to {max(known):.2f}" if len(known) > 1 else f"{known[0]:.2f}"
        base = "" if self.base is None else f" (base {self.base:.2f})"
        return f"{len(known)} measured: {shares} of the anchors right{base}, {bad} bad"


def guard_rows(generation: int, report: GuardReport) -> list[dict[str, Any]]:
    """Rows of ``guard.jsonl``: one for each agent, as JSON types; None is what is not known."""
    return [
        {
            "generation": generation,
            "agent": own.agent,
            "individual": own.individual,
            "signals": dict(own.signals),
            "flags": [flag.to_dict() for flag in own.flags],
            "anchors": own.anchors,
            "base_anchors": report.base,
            "forgotten": own.forgotten,
            "verdict": None if own.verdict is None else own.verdict.to_dict(),
            "rung": own.rung.word,
            "step": None if own.step is None else own.step.rung.word,
            "up": None if own.step is None else own.step.up,
            "what": "" if own.step is None else own.step.what,
            "replies": report.replies,
            "places": report.places,
            "stop": report.stop,
        }
        for own in report.agents
    ]


def share(marks: Sequence[bool]) -> float:
    """Share of marks that are right; NaN of none."""
    return sum(marks) / len(marks) if marks else math.nan
