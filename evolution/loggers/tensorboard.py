"""What TensorBoard shows of a run: curves, histograms, sample episodes, settings and their outcome.

Needs the package ``tensorboard``, which comes with the extra ``evolve``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.plain_files import refuse_links, remove
from evolution.errors import CheckpointError
from evolution.loggers.base import aggregates, spreads, strengths
from populora_env.proposals.record import Proposal
from populora_env.records import Transcript

if TYPE_CHECKING:
    from evolution.results import GenerationResult

_HPARAMS = "hparams"  # a folder of its own, since it is written anew at every close


class TensorBoardLogger:
    """Curves, histograms over the agents, a few transcripts and the settings; a `Logger`.

    Curves are the `aggregates`, the peers' strengths, and histograms of fitness, return, diversity
    and standing. On `close`, the settings are written with the last generation's aggregates, for
    TensorBoard's comparison of runs; a resumed run has them once, as of its end.

    Args:
        folder: Where the event files go.
        samples: Transcripts shown per generation.
        first: First generation that will be logged; later ones of an earlier, killed run are
            purged.
        settings: Of the run, by name.

    Raises:
        CheckpointError: If the folder or anything in it is a link: what it points to stays
            untouched.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        samples: int = 2,
        first: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            refuse_links(Path(folder))
        except OSError as error:
            raise CheckpointError(f"{error.filename}: {error.strerror}") from error
        self._folder, self._samples, self._settings = Path(folder), samples, settings
        self._writer: Any = SummaryWriter(str(folder), purge_step=first)
        self._last: dict[str, float] = {}

    def log(self, result: "GenerationResult", transcripts: Sequence[Transcript]) -> None:
        """Write one point per curve, the histograms, and the first transcripts."""
        step = result.generation
        self._last = {k: v for k, v in aggregates(result).items() if v is not None}
        for name, value in self._last.items():
            self._writer.add_scalar(name, value, step)
        for name, values in spreads(result).items():
            self._writer.add_histogram(name, values, step)
        if told := strengths(result):
            self._writer.add_scalars("peer_strength", told, step)
        for number, transcript in enumerate(transcripts[: self._samples]):
            self._writer.add_text(f"transcript/{number}", as_markdown(transcript), step)
        self._writer.flush()

    def close(self) -> None:
        """Write the settings with what came of them, if anything was logged, and close the file."""
        if self._settings is not None and self._last:
            remove(self._folder / _HPARAMS)
            outcome = {f"final/{name}": value for name, value in self._last.items()}
            plain = {name: _plain(value) for name, value in self._settings.items()}
            self._writer.add_hparams(plain, outcome, run_name=_HPARAMS)
            self._last = {}
        self._writer.close()


def _plain(value: Any) -> float | str | bool:
    """A setting as TensorBoard takes it; what is left open is called so."""
    if value is None:
        return "default"
    return value if isinstance(value, bool | int | float) else str(value)


def _outcome(proposal: Proposal) -> str:
    if not proposal.valid:
        return f"{proposal.status.value.replace('_', ' ')}: {proposal.reason}"
    rate = proposal.solve_rate
    return "valid, not graded" if rate is None else f"valid, solved in {rate:.0%} of the attempts"


def as_markdown(transcript: Transcript) -> str:
    """An episode as Markdown: the problem, each attempt and how it was judged.

    Where an agent wrote the problem, first of all what became of that; of a proposal that is not
    valid, nothing else.
    """
    lines: list[str] = []
    if (proposal := transcript.proposal) is not None:
        paid = transcript.rewards[proposal.agent]
        lines += [f"**{proposal.agent}** proposes — {_outcome(proposal)}, return {paid:.2f}", ""]
        if not proposal.valid:
            return "\n".join([*lines, "    " + proposal.text.replace("\n", "\n    "), ""])
    quoted = transcript.problem.prompt.replace("\n", "\n> ")
    lines += [f"> {quoted}", "", f"Known answer: `{transcript.problem.answer}`", ""]
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
