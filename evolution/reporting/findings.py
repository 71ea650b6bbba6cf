"""What a report says of a run in more than one place, worked out and not yet written down."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evolution.reporting.anatomy.reading import Inside, read_inside
from evolution.reporting.measures.audits import (
    Audit,
    forgetting,
    length_drift,
    mode_collapse,
    reward_hacking,
)
from evolution.reporting.measures.collapse import proposals_collapse
from evolution.reporting.measures.collusion import judge_collusion, peer_opinions
from evolution.reporting.measures.data import RunData, Series, read_run_data, row_means
from evolution.reporting.measures.measured import (
    Bench,
    HeldOut,
    HeldOutCurve,
    read_bench,
    read_curve,
    read_held_out,
)
from evolution.reporting.measures.proposals import Proposed, read_proposals
from evolution.reporting.measures.series import identical_share
from evolution.reporting.measures.trends import MIN_POINTS
from populora_env.judges import JudgeStatistics, judge_statistics


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What is known of a run; None stands for what was not recorded.

    Attributes:
        run: What the run wrote.
        held_out: Accuracy on held-out problems at its end.
        curve: The same while it went on.
        bench: What it changed on other tasks.
        identical: Share of pairs of attempts that are the same text, [G].
        judges: Judge to how it judged; empty without judgements.
        audits: All five, in a fixed order; one more in self-play.
        proposals: What agents proposed, in self-play; else empty.
        inside: What adapters are like inside; None where none are on disk.
    """

    run: RunData
    held_out: HeldOut | None
    curve: HeldOutCurve | None
    bench: Bench | None
    identical: Series | None
    judges: Mapping[str, JudgeStatistics]
    audits: tuple[Audit, ...]
    proposals: tuple[Proposed, ...] = ()
    inside: Inside | None = None


def find(path: str | Path) -> Findings:
    """Read a run folder and work out what a report says.

    Raises:
        UsageError: If the folder cannot be used; see `read_run_data`.
    """
    run = read_run_data(path)
    held_out, curve, bench = read_held_out(run), read_curve(run), read_bench(run)
    identical, judges = identical_share(run), judge_statistics(run.transcripts)
    rewards = {name: values for name in ("fitness", "return")
               if (values := run.mean_as_recorded(name)) is not None}  # fmt: skip
    accuracy, measured_on = run.mean("accuracy"), "the training problems"
    truth = accuracy
    proposals = read_proposals(run)
    if proposals:  # how hard their problems are is up to their authors
        truth, measured_on = None, "problems that stay as hard as they are"
    if curve is not None:
        held = row_means(curve.values)
        if int(np.isfinite(held).sum()) >= MIN_POINTS:
            truth, measured_on = held, "held-out problems"
    last, gain = run.generations[-1], held_out.gain if held_out else None
    seed = run.config.get("seed", 0)
    return Findings(
        run=run,
        held_out=held_out,
        curve=curve,
        bench=bench,
        identical=identical,
        judges=judges if any(e.comparisons + e.assessments for e in judges.values()) else {},
        audits=(
            reward_hacking(run.generations, rewards, truth, gain, measured_on),
            mode_collapse(run.mean_as_recorded("diversity"), identical, len(run.solvers)),
            forgetting(bench, last, str(run.path)),
            length_drift(
                run.generations,
                run.mean_as_recorded("length"),
                truth if proposals else accuracy,
            ),
            judge_collusion(
                peer_opinions(run.transcripts),
                run.agents,
                seed=seed if isinstance(seed, int) else 0,
            ),
            *((proposals_collapse(proposals),) if proposals else ()),
        ),
        proposals=proposals,
        inside=read_inside(run),
    )
