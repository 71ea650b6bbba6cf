"""Where a run tells what it does.

A logger is told of every generation once it is complete. `history.jsonl` and the transcripts are
not loggers: they are part of the run's state and are written by the manager.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from populora_env.records import Transcript

if TYPE_CHECKING:
    from evolution.results import GenerationResult


class Logger(Protocol):
    """Is told of every complete generation."""

    def log(self, result: "GenerationResult", transcripts: Sequence[Transcript]) -> None:
        """Take note of a generation."""
        ...

    def close(self) -> None:
        """Flush and release what the logger holds."""
        ...


class TensorBoardLogger:
    """Scalars, and a few transcripts as text, for TensorBoard.

    Args:
        folder: Where the event files go.
        samples: Transcripts shown per generation.
        first: First generation that will be logged; later ones of an earlier, killed run are
            purged.
    """

    def __init__(self, folder: str | Path, samples: int = 2, first: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._samples = samples
        self._writer: Any = SummaryWriter(str(folder), purge_step=first)

    def log(self, result: "GenerationResult", transcripts: Sequence[Transcript]) -> None:
        """Write one point per curve: mean and maximum over the agents."""
        step = result.generation
        scores = result.scores
        for name in ("returns", "accuracy", "length", "diversity", "bonus", "fitness"):
            values = getattr(scores, name)
            if np.isfinite(values).any():
                self._writer.add_scalar(f"{name}/mean", float(np.nanmean(values)), step)
                self._writer.add_scalar(f"{name}/max", float(np.nanmax(values)), step)
        whole = {"vendi": scores.vendi, "weight": scores.diversity_weight, **scores.archive}
        for name, value in whole.items():
            if np.isfinite(value):
                self._writer.add_scalar(f"diversity/{name}", value, step)
        if result.peers.comparisons.any():
            strengths = dict(zip(result.peers.agents, result.peers.strengths.tolist(), strict=True))
            self._writer.add_scalars("peer_strength", strengths, step)
        self._writer.add_scalar("time/seconds", result.seconds, step)
        if result.learning is not None:
            norms = np.array(result.learning.grad_norms)
            self._writer.add_scalar("learning/grad_norm", float(norms.mean()), step)
            self._writer.add_scalar("learning/tokens", result.learning.tokens, step)
            self._writer.add_scalar("learning/clipped", result.learning.clipped, step)
            divergences = np.array(result.learning.kl or [])
            if np.isfinite(divergences).any():
                self._writer.add_scalar("learning/kl", float(np.nanmean(divergences)), step)
        for number, transcript in enumerate(transcripts[: self._samples]):
            self._writer.add_text(f"transcript/{number}", as_markdown(transcript), step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def as_markdown(transcript: Transcript) -> str:
    """An episode as Markdown: the problem, each attempt and how it was judged."""
    quoted = transcript.problem.prompt.replace("\n", "\n> ")
    lines = [f"> {quoted}", "", f"Known answer: `{transcript.problem.answer}`", ""]
    for attempt in transcript.attempts:
        grade = attempt.grade.status.value if attempt.grade is not None else "ungraded"
        lines += [
            f"**{attempt.agent}** — {grade}, return {transcript.rewards[attempt.agent]:.2f}",
            "",
            "    " + attempt.text.replace("\n", "\n    "),
            "",
        ]
    for entry in transcript.assessments:
        value = "unreadable" if entry.value is None else f"{entry.value:.2g}"
        lines.append(f"- {entry.judge}: {entry.form} of {entry.author}: {value}")
    for evaluation in transcript.evaluations:
        outcome = evaluation.preference.value if evaluation.preference is not None else "abstained"
        lines.append(
            f"- {evaluation.judge} on A={evaluation.first_author}, B={evaluation.second_author}: "
            f"{outcome}{' (flipped)' if evaluation.flipped else ''}"
        )
    return "\n".join(lines)
