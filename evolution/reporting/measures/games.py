"""Who beats whom, over all comparisons of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolution.reporting.measures.data import Episode, Series
from populora_env.judges import JudgeStatistics, judge_statistics
from populora_env.judges.bias import OVERALL
from populora_env.ratings import BradleyTerry, bradley_terry
from populora_env.records import Preference, Transcript

_MOST_BINS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Games:
    """All comparisons of a run; a win is one that holds in both orders.

    Attributes:
        agents: Names of the N agents.
        wins: [N, N], how often the row's agent beat the column's.
        ties: [N, N], how often the two tied, symmetric.
        abstained: [N, N], comparisons of the two without a result, symmetric.
        strengths: Bradley and Terry's, with errors.
    """

    agents: tuple[str, ...]
    wins: NDArray[np.int64]
    ties: NDArray[np.int64]
    abstained: NDArray[np.int64]
    strengths: BradleyTerry

    @property
    def shares(self) -> Series:
        """Share of the decided games that the row's agent won, a tie as half, [N, N]; or NaN."""
        games = self.wins + self.wins.T + self.ties
        points = self.wins + self.ties / 2
        return np.divide(points, games, out=np.full(games.shape, np.nan), where=games > 0)


def games(agents: Sequence[str], transcripts: Sequence[Transcript]) -> Games | None:
    """Count a run's comparisons, by agents and judges from outside; None if there are none."""
    names = tuple(agents)
    evaluations = [entry for transcript in transcripts for entry in transcript.evaluations]
    if not evaluations:
        return None
    places = {name: place for place, name in enumerate(names)}
    wins, ties, abstained = np.zeros((3, len(names), len(names)), dtype=np.int64)
    for entry in evaluations:
        first, second = places[entry.first_author], places[entry.second_author]
        if entry.preference is Preference.A:
            wins[first, second] += 1
        elif entry.preference is Preference.B:
            wins[second, first] += 1
        else:
            table = abstained if entry.preference is None else ties
            table[first, second] += 1
            table[second, first] += 1
    return Games(names, wins, ties, abstained, bradley_terry(names, evaluations))


@dataclass(frozen=True, slots=True)
class JudgingBin:
    """How all agents judged in a few neighbouring generations."""

    first: int
    last: int
    statistics: JudgeStatistics


def judging_over_time(episodes: Sequence[Episode]) -> list[JudgingBin]:
    """Return the agents' judging in at most `_MOST_BINS` bins of generations, in order."""
    kept = sorted({episode.generation for episode in episodes})
    bins: list[JudgingBin] = []
    for part in np.array_split(np.array(kept), min(_MOST_BINS, len(kept))) if kept else ():
        own = [e.transcript for e in episodes if part[0] <= e.generation <= part[-1]]
        found = judge_statistics(own)[OVERALL]
        if found.comparisons + found.assessments:
            bins.append(JudgingBin(int(part[0]), int(part[-1]), found))
    return bins
