"""All that a report says of a run, worked out and not yet written down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evolution.reporting.examples import Contrast, Example, contrast, fooled
from evolution.reporting.measures.audits import (
    Audit,
    forgetting,
    length_drift,
    mode_collapse,
    reward_hacking,
)
from evolution.reporting.measures.collusion import judge_collusion, peer_opinions
from evolution.reporting.measures.data import RunData, Series, read_run_data, row_means
from evolution.reporting.measures.family import Family, family
from evolution.reporting.measures.games import Games, JudgingBin, games, judging_over_time
from evolution.reporting.measures.measured import (
    Bench,
    HeldOut,
    HeldOutCurve,
    read_bench,
    read_curve,
    read_held_out,
)
from evolution.reporting.measures.series import accuracy_error, identical_share
from evolution.reporting.measures.trends import MIN_POINTS
from evolution.reporting.text import TextMap, text_map
from populora_env.judges import JudgeStatistics, judge_statistics, majority_figures
from populora_env.judges.bias import MajorityFigures


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What is known of a run; None stands for what was not recorded.

    Attributes:
        run: What the run wrote.
        held_out: Accuracy on held-out problems at its end.
        curve: The same while it went on.
        bench: What it changed on other tasks.
        accuracy_error: Standard error over problems of the mean accuracy, [G].
        identical: Share of pairs of attempts that are the same text, [G].
        tree: The family tree.
        games: Who beat whom.
        judges: Judge to how it judged; empty without judgements.
        judging: How that changed.
        majority: How good the majority was as a label.
        map: Early and late replies on a map.
        contrast: The best and the most different right attempt.
        fooled: A wrong attempt that was taken for good.
        audits: All five, in a fixed order.
    """

    run: RunData
    held_out: HeldOut | None
    curve: HeldOutCurve | None
    bench: Bench | None
    accuracy_error: Series | None
    identical: Series | None
    tree: Family | None
    games: Games | None
    judges: Mapping[str, JudgeStatistics]
    judging: Sequence[JudgingBin]
    majority: MajorityFigures
    map: TextMap | None
    contrast: Contrast | None
    fooled: Example | None
    audits: tuple[Audit, ...]


def find(path: str | Path) -> Findings:
    """Read a run folder and work out what a report says.

    Raises:
        UsageError: If the folder cannot be used; see `read_run_data`.
    """
    run = read_run_data(path)
    transcripts = run.transcripts
    held_out, curve, bench = read_held_out(run), read_curve(run), read_bench(run)
    identical = identical_share(run)
    statistics = judge_statistics(transcripts)
    judged = any(entry.comparisons + entry.assessments for entry in statistics.values())
    return Findings(
        run=run,
        held_out=held_out,
        curve=curve,
        bench=bench,
        accuracy_error=accuracy_error(run),
        identical=identical,
        tree=family(run),
        games=games(run.agents, transcripts),
        judges=statistics if judged else {},
        judging=judging_over_time(run.episodes) if judged else [],
        majority=majority_figures(transcripts),
        map=text_map(run),
        contrast=contrast(run),
        fooled=fooled(run),
        audits=_audits(run, held_out, curve, bench, identical),
    )


def _audits(
    run: RunData,
    held_out: HeldOut | None,
    curve: HeldOutCurve | None,
    bench: Bench | None,
    identical: Series | None,
) -> tuple[Audit, ...]:
    generations = run.generations
    known = {name: run.mean(name) for name in ("fitness", "return")}
    rewards = {name: values for name, values in known.items() if values is not None}
    accuracy, measured_on = run.mean("accuracy"), "the training problems"
    truth = accuracy
    if curve is not None:
        held = row_means(curve.values)
        if int(np.isfinite(held).sum()) >= MIN_POINTS:
            truth, measured_on = held, "held-out problems"
    seed = run.config.get("seed", 0)
    return (
        reward_hacking(
            generations, rewards, truth, held_out.gain if held_out else None, measured_on
        ),
        mode_collapse(run.mean("diversity"), identical),
        forgetting(bench, generations[-1], str(run.path)),
        length_drift(generations, run.mean("length"), accuracy),
        judge_collusion(
            peer_opinions(run.transcripts), run.agents, seed=seed if isinstance(seed, int) else 0
        ),
    )
