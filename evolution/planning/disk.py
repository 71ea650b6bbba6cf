"""What a run is going to keep on disk.

Weights are counted to the byte; records of text are scaled from a probe, or are a few hundred bytes
that were looked up in runs of this version.
"""

from dataclasses import dataclass

from agents.loading.models import DTYPES
from evolution.config import Learner, Rows, RunConfig
from evolution.loggers.named import read_loggers
from evolution.lowrank.sketches import PRODUCTS
from evolution.planning.replies import measurements
from evolution.planning.shapes import BaseShapes

_HEADER = 125  # of a tensor in a file of safetensors, with its name and place
_SETTINGS = 560  # an adapter's configuration
_ROW = 620  # of history.jsonl
_STATE, _PERSON = 3400, 240  # of state.json: settings and the like; an individual's record
_REPLY = 170  # of held_out.jsonl, without the reply's text
_CURVES, _AGENT = 9000, 1150  # of TensorBoard, a generation: curves and sample episodes; an agent's
_ONCE = 12000  # run.toml, summary.json, settings with the outcome
_REPORT = 4_900_000  # report.html: nearly all of it the library that draws

REPORT_READS = 32 << 20
"""Bytes of transcripts up to which a report is written without being asked for."""


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """Bytes on disk when a run has ended.

    Attributes:
        generation: One that is saved whole.
        kept: Generations that stay.
        best: The champion's adapter.
        transcripts: Of all episodes.
        records: History, lineage, curves and the like.
        report: The report that a run writes at its end, if it does.
    """

    generation: int
    kept: int
    best: int
    transcripts: int
    records: int
    report: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        rest = self.best + self.transcripts + self.records + self.report
        return self.generation * self.kept + rest


def plan_disk(
    shapes: BaseShapes,
    config: RunConfig,
    transcripts: float,
    first: int = 0,
    *,
    reports: bool = True,
) -> DiskPlan:
    """Predict what a run keeps.

    Args:
        shapes: Of the base.
        config: Settings of the run.
        transcripts: Bytes of those of a generation.
        first: Generations that were played before; what they keep is there already.
        reports: Whether what writes a report is installed.
    """
    plain = "float32" if config.load_in_4bit else config.dtype
    held = DTYPES[config.adapter_dtype or plain].itemsize
    layers = sum(len(outputs) for _, outputs in shapes.groups)
    tensors = 2 * layers
    adapter = shapes.adapter(config.rank) * held + tensors * _HEADER + _SETTINGS
    learns = config.learner is not Learner.NONE
    played = max(config.generations - first, 0)
    settings = config.resolved(config.size)
    born = config.size + settings.offspring * ((config.generations - 1) // settings.evolve_every)
    frozen = config.rows is Rows.SHARED  # then B alone has moments
    learned = shapes.columns(config.rank) if frozen else shapes.adapter(config.rank)
    moments = 8 * config.size * learned + (layers if frozen else tensors) * _HEADER * 2
    sketches = 4 * config.size * layers * PRODUCTS
    state = _STATE + born * _PERSON + sketches
    tried = config.generations > settings.evolve_every  # before the first trial there is no best
    snapshots = config.size * (config.guard != "off")  # at most
    generation = (config.size + snapshots + tried) * adapter + state + learns * moments
    kept = min(config.keep_generations, played)
    if config.keep_every:
        last = config.generations - kept
        kept += sum((g + 1) % config.keep_every == 0 for g in range(first, last))
    asked = measurements(config, first)
    text = asked.table[0] * (_REPLY + 2 * config.solve_tokens) if config.held_out else 0
    drawn = any(use.name == "tensorboard" for use in read_loggers(config.log))
    a_generation = config.size * (_ROW + _AGENT * drawn) + _CURVES * drawn
    return DiskPlan(
        generation,
        kept,
        adapter,
        int(transcripts * played),
        played * a_generation + text + born * _PERSON + _ONCE,
        _REPORT if reports and transcripts * config.generations <= REPORT_READS else 0,
    )
