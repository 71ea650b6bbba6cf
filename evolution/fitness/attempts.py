"""The attempts of a generation, as measures of diversity see them, and which of them count.

Being wrong is an easy way to be different, so diversity is only counted among attempts above a
minimal criterion (Lehman and Stanley, 2010), the quality bar: a function from transcripts to who is
above it, registered in `MINIMAL_CRITERIA` in the manner of `evolution.registry`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agents.engine.jobs import Feature
from agents.population import LoraPopulation
from evolution.errors import OperatorError
from evolution.fitness.task import mean_known
from evolution.registry import Operators, Use
from populora_env.episodes.rewards import RewardPart
from populora_env.records import Phase, Transcript

Bar = Callable[..., np.ndarray]
MINIMAL_CRITERIA = Operators[Bar]("diversity_bar")


@dataclass(frozen=True, slots=True, eq=False)
class Attempts:
    """Attempts of all agents at all problems of a generation, the last of several tries.

    An agent that did not try has an empty text, which does not count.

    Attributes:
        texts: Replies, ``[problems][N]``.
        answers: Their final answers in canonical form, ``[problems][N]``; None where there is none.
        counted: Which are above the quality bar, ``[problems, N]``.
        features: Mean last hidden state over each reply, ``[problems, N, width]``; NaN where not
            known, as of an empty reply or one that was played elsewhere. None where the engine
            gives none; see `hidden_states`.
        distributions: Mean token distribution of each reply, ``[vocabulary]``, in
            ``[problems][N]``; None where not known or not asked for.
    """

    texts: Sequence[Sequence[str]]
    answers: Sequence[Sequence[str | None]]
    counted: np.ndarray
    features: np.ndarray | None
    distributions: Sequence[Sequence[np.ndarray | None]]

    @property
    def shape(self) -> tuple[int, int]:
        """Problems and agents."""
        problems, agents = self.counted.shape
        return problems, agents

    @property
    def hidden_states(self) -> np.ndarray:
        """The features.

        Raises:
            OperatorError: If the engine gives none.
        """
        if self.features is None:
            raise OperatorError(
                "diversity: needs hidden states, which the population's engine does not give; "
                "measure answers, strategies or embeddings"
            )
        return self.features

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean of each agent over its attempts that count.

        Args:
            values: Of each attempt, ``[problems, N]`` or ``[problems, N, width]``.

        Returns:
            ``[N]`` or ``[N, width]``; NaN of an agent of whose attempts none counts.
        """
        lead = self.counted if values.ndim == 2 else self.counted[..., None]
        return mean_known(np.where(lead, values, np.nan))


def gather(
    transcripts: Sequence[Transcript], population: LoraPopulation, bar: Use[Bar] | None = None
) -> Attempts:
    """What is known of the attempts in a generation's episodes.

    Args:
        transcripts: Of the population's agents.
        population: Recalls hidden states and distributions that it was asked to keep.
        bar: Which attempts count; None for all.

    Raises:
        OperatorError: If the bar returns anything but a truth value for each attempt.
    """
    transcripts = [transcript for transcript in transcripts if transcript.attempts]
    problems, size = len(transcripts), population.size
    tried = [{attempt.agent: attempt for attempt in t.attempts} for t in transcripts]
    features = None
    if Feature.HIDDEN_STATES in population.engine.features:
        width = population.base.model.get_input_embeddings().weight.shape[1]
        features = np.full((problems, size, width), np.nan)
    distributions: list[list[np.ndarray | None]] = [[None] * size for _ in transcripts]
    for row, transcript in enumerate(transcripts):
        for turn in transcript.turns:
            if turn.phase is not Phase.SOLVE:
                continue
            column, known = population.agents.index(turn.agent), population.recall(turn.reply_id)
            if known is None or len(known.reply_ids) < 2:  # nothing of an earlier try counts, too
                distributions[row][column] = None
                if features is not None:
                    features[row, column] = np.nan
                continue
            if features is not None:
                features[row, column] = known.features[Feature.HIDDEN_STATES].numpy()
            if Feature.DISTRIBUTIONS in known.features:
                distributions[row][column] = known.features[Feature.DISTRIBUTIONS].numpy()
    counted = np.ones((problems, size), dtype=bool)
    if bar is not None and transcripts:
        counted = np.asarray(bar(transcripts))
        if counted.shape != (problems, size) or counted.dtype != bool:
            raise OperatorError(
                f"diversity_bar: {bar.name} returned {counted.dtype} {list(counted.shape)}, "
                f"expected bool {[problems, size]}"
            )
    listed = [[own.get(agent) for agent in population.agents] for own in tried]
    made = [[attempt is not None for attempt in row] for row in listed]
    counted = counted & np.array(made, dtype=bool).reshape(problems, size)
    return Attempts(
        [["" if a is None else a.text for a in row] for row in listed],
        [
            [None if a is None or not (a.answer or "").strip() else a.answer for a in row]
            for row in listed
        ],
        counted,
        features,
        distributions,
    )


@MINIMAL_CRITERIA.add("right")
def right(transcripts: Sequence[Transcript]) -> np.ndarray:
    """Attempts that whoever labels them for the reward calls right.

    That is the known answer if there is one, else the majority, the peers or the judge.

    Returns:
        ``[problems, N]``.
    """
    marks: list[list[bool]] = []
    for transcript in transcripts:
        labels = {
            turn.agent: turn.parts.get(RewardPart.CORRECTNESS.value)
            for turn in transcript.turns
            if turn.phase is Phase.SOLVE
        }
        grades = {attempt.agent: attempt.correct for attempt in transcript.attempts}
        known = [grades.get(agent) for agent in transcript.agents]
        marks.append(
            [
                labels.get(agent) == 1 if mark is None else mark
                for agent, mark in zip(transcript.agents, known, strict=True)
            ]
        )
    return np.array(marks)


@MINIMAL_CRITERIA.add("above_median")
def above_median(transcripts: Sequence[Transcript]) -> np.ndarray:
    """Attempts whose episode earned at least the median of all agents' at the problem."""
    rewards = _rewards(transcripts)
    return rewards >= np.nanmedian(rewards, axis=1, keepdims=True)


@MINIMAL_CRITERIA.add("rewarded", least=(-1e6, 1e6))
def rewarded(transcripts: Sequence[Transcript], *, least: float = 0.5) -> np.ndarray:
    """Attempts whose episode earned at least so much."""
    return _rewards(transcripts) >= least


def _rewards(transcripts: Sequence[Transcript]) -> np.ndarray:
    """What agents earned by their attempts, ``[problems, N]``; NaN of those who made none."""
    return np.array(
        [
            [t.rewards[a] if a in {x.agent for x in t.attempts} else np.nan for a in t.agents]
            for t in transcripts
        ]
    )
