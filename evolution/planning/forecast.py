"""From a few seconds of a run to all of it: tokens and seconds, as ranges."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from evolution.config import Learner, RunConfig
from evolution.planning.probe import Asked, Probe
from evolution.planning.replies import Measurements, generation_replies, measurements, most_readers
from evolution.run_problems import reply_limits
from populora_env.records import Phase

Range = tuple[float, float]

_UNSURE = 0.15  # of what was measured for a few seconds on a machine that does other things, too
_FULLER = 0.6  # least share of the time, where the run's batches are fuller than the probe's


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run is going to take; ranges are least and most.

    Attributes:
        replies: Of a generation, by phase; fewest and most.
        measured: Replies beside episodes, of the run.
        generations: That are still to be played.
        written: Tokens of a generation's replies.
        read: Tokens of a generation's prompts.
        playing: Seconds of a generation's replies.
        learning: Seconds of a generation's learning.
        measuring: Seconds of the replies beside episodes, of the run.
        transcripts: Bytes of a generation's.
    """

    replies: Mapping[Phase, tuple[int, int]] = field(hash=False)
    measured: Measurements
    generations: int
    written: Range
    read: Range
    playing: Range
    learning: Range
    measuring: Range
    transcripts: float

    @property
    def generation(self) -> Range:
        """Seconds of one generation."""
        return self.playing[0] + self.learning[0], self.playing[1] + self.learning[1]

    def run(self, loading: float = 0.0) -> Range:
        """Seconds of the run.

        Args:
            loading: Seconds until it begins.
        """
        low, high = (
            loading + self.generations * self.generation[i] + self.measuring[i] for i in (0, 1)
        )
        return low, high

    def reached(self, minutes: float, loading: float = 0.0) -> tuple[int, int]:
        """Generations that begin within a time, fewest and most."""
        left = max(60 * minutes - loading, 0.0)
        few, many = (
            min(self.generations, math.floor(left / max(seconds, 1e-9)) + 1)
            for seconds in reversed(self.generation)
        )
        return few, many


def forecast(
    config: RunConfig, seen: Probe, *, problems: int, first: int = 0, held_out: int = 0
) -> Forecast:
    """Work out what a run takes.

    Args:
        config: Its settings.
        seen: What a probe saw.
        problems: Episodes of a generation.
        first: Generations that were played before.
        held_out: Problems for the table.
    """
    replies = generation_replies(config, config.size, problems=problems, valid=seen.valid)
    most = generation_replies(config, config.size, problems=problems)  # agents learn to propose
    limits = reply_limits(config)
    written, read, playing = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    whole = seen.problems >= problems and seen.cut == 1
    least = 1 - _UNSURE if whole else (1 - _UNSURE) * _FULLER
    solving = seen.phases.get(Phase.SOLVE) or seen.phases.get(Phase.PROPOSE) or Asked(1)
    for phase, high in most.items():
        low, asked = replies.get(phase, 0), seen.phases.get(phase) or solving
        each = asked.seconds / asked.replies
        written[0] += low * asked.written / asked.replies
        written[1] += high * limits[phase]
        read[0] += low * asked.prompt / asked.replies
        read[1] += high * asked.prompt / asked.replies
        playing[0] += least * low * each
        playing[1] += (1 + _UNSURE) * high * each * seen.slower
    rest = seen.rest * problems / seen.problems
    own = config.learn_judging or config.learner is Learner.REJECTION
    learned = [
        seen.seconds_per_sample
        * most_readers(config)
        * sum(n for phase, n in counts.items() if own or phase in (Phase.SOLVE, Phase.PROPOSE))
        for counts in (replies, most)
    ]
    # How many replies earn more than their rivals' changes as agents learn.
    shares = 0.6 * seen.useful, min(1.0, 1.6 * seen.useful) or 0.5
    beside = measurements(config, first, held_out)
    total = beside.total
    each = solving.seconds / solving.replies
    return Forecast(
        {phase: (replies.get(phase, 0), high) for phase, high in most.items()},
        beside,
        max(config.generations - first, 0),
        (written[0], written[1]),
        (read[0], read[1]),
        (playing[0] + least * rest, playing[1] + (1 + _UNSURE) * rest),
        (learned[0] * shares[0], learned[1] * shares[1] * seen.slower),
        (total[0] * each * least, total[1] * each * (1 + _UNSURE) * seen.slower),
        seen.transcript * problems / seen.problems,
    )
