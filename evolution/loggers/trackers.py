"""Loggers for experiment trackers: Weights & Biases and Trackio.

Both get what `evolution.loggers.tensorboard` shows, under the same names: the aggregates, peers'
strengths, histograms over the agents, a few episodes, the settings; and the guard's lines as
alerts. A resumed run goes on under the id that its folder keeps, in ``wandb/run_id`` or
``trackio/run_id``.

They need the packages of these names, which come with the extras ``wandb`` and ``trackio``.
"""

import html
import io
import os
import re
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.plain_files import write_whole
from evolution.errors import CheckpointError
from evolution.loggers.base import Alert, aggregates, alerts, spreads, strengths
from evolution.loggers.tensorboard import as_markdown
from populora_env.records import Transcript

if TYPE_CHECKING:
    from evolution.results import GenerationResult

_ID = re.compile(r"[0-9a-f]{16}")


class _Tracker:
    """What both do with a generation; a `Logger`."""

    def __init__(self, samples: int) -> None:
        self._samples, self._closed = samples, False

    def log(self, result: "GenerationResult", transcripts: Sequence[Transcript]) -> None:
        """Send figures, histograms, the first transcripts and alerts."""
        told: dict[str, Any] = {k: v for k, v in aggregates(result).items() if v is not None}
        told |= {f"peer_strength/{agent}": v for agent, v in strengths(result).items()}
        told |= {name: self._histogram(values) for name, values in spreads(result).items()}
        for number, transcript in enumerate(transcripts[: self._samples]):
            told[f"transcript/{number}"] = self._text(as_markdown(transcript))
        self._send(told, result.generation)
        for alert in alerts(result):
            self._alert(alert)

    def close(self) -> None:
        """End what was opened; the run may be resumed later."""
        if not self._closed:
            self._closed = True
            self._finish()

    def _histogram(self, values: np.ndarray) -> Any:
        raise NotImplementedError

    def _text(self, markdown: str) -> Any:
        raise NotImplementedError

    def _send(self, told: Mapping[str, Any], step: int) -> None:
        raise NotImplementedError

    def _alert(self, alert: Alert) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError


class WandbLogger(_Tracker):
    """Curves, histograms, episodes, settings and alerts in Weights & Biases; a `Logger`.

    Offline by default: files go to ``wandb/`` in the run's folder, and ``wandb sync`` uploads them.
    A run that was resumed offline has a folder of each call, all with one id.

    Args:
        folder: The run's.
        project: Where the run is listed.
        entity: User or team; empty for the default one.
        mode: online or offline; empty for what WANDB_MODE says, or offline.
        samples: Transcripts shown per generation.
        settings: Of the run, by name.

    Raises:
        CheckpointError: If the folder ``wandb`` in it, or the id there, is a link.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        project: str = "populora",
        entity: str = "",
        mode: str = "",
        samples: int = 2,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(samples)
        if "weave" not in sys.modules:  # else wandb takes our `agents` for another package
            os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")
        import wandb

        known = kept_id(Path(folder) / "wandb")
        mode = mode or os.environ.get("WANDB_MODE", "offline")
        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=project,
            entity=entity or None,
            id=known,
            name=Path(folder).name,
            dir=str(folder),
            mode=mode,  # type: ignore[reportArgumentType]
            resume="allow" if mode == "online" else None,
            config=dict(settings or {}),
            # Progress bars are no log.
            settings=wandb.Settings(console="off", silent=True, symlink=False),
        )

    def _histogram(self, values: np.ndarray) -> Any:
        return self._wandb.Histogram(values.tolist())

    def _text(self, markdown: str) -> Any:
        return self._wandb.Html(f"<pre>{html.escape(markdown)}</pre>", inject=False)

    def _send(self, told: Mapping[str, Any], step: int) -> None:
        self._run.log(dict(told), step=step)

    def _alert(self, alert: Alert) -> None:
        levels = self._wandb.AlertLevel
        level = levels.ERROR if alert.is_stop else levels.WARN
        self._run.alert(title=alert.title, text=alert.text, level=level)

    def _finish(self) -> None:
        self._run.finish()


class TrackioLogger(_Tracker):
    """Curves, histograms, episodes, settings and alerts in Trackio; a `Logger`.

    They go where Trackio keeps all projects on this machine (TRACKIO_DIR), for ``trackio show``;
    or to the Space or server that TRACKIO_SPACE_ID or TRACKIO_SERVER_URL names.

    Args:
        folder: The run's.
        project: Where the run is listed.
        samples: Transcripts shown per generation.
        settings: Of the run, by name.

    Raises:
        CheckpointError: If the folder ``trackio`` in it, or the id there, is a link.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        project: str = "populora",
        samples: int = 2,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(samples)
        import trackio  # pyright: ignore[reportMissingImports]

        known = kept_id(Path(folder) / "trackio")
        self._trackio: Any = trackio
        # By its name a run is found again. What Trackio prints would tear the progress bars.
        with redirect_stdout(io.StringIO()):
            self._run: Any = trackio.init(
                project=project,
                name=f"{Path(folder).resolve().name}-{known[:6]}",
                config=dict(settings or {}),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def _histogram(self, values: np.ndarray) -> Any:
        return self._trackio.Histogram(values)

    def _text(self, markdown: str) -> Any:
        return self._trackio.Markdown(markdown)

    def _send(self, told: Mapping[str, Any], step: int) -> None:
        self._run.log(dict(told), step=step)

    def _alert(self, alert: Alert) -> None:
        levels = self._trackio.AlertLevel
        level = levels.ERROR if alert.is_stop else levels.WARN
        with redirect_stdout(io.StringIO()):  # the console has it from the guard
            self._run.alert(title=alert.title, text=alert.text, level=level)

    def _finish(self) -> None:
        with redirect_stdout(io.StringIO()):
            self._trackio.finish()


def kept_id(folder: Path) -> str:
    """The id of a run with a tracker: what ``run_id`` in a folder says, or a new one, kept there.

    Raises:
        CheckpointError: If the folder or the file is a link.
        OSError: If it cannot be written.
    """
    file = folder / "run_id"
    for place in (folder, file):  # wandb itself makes links elsewhere in the folder
        if place.is_symlink():
            raise CheckpointError(f"{place}: it is a link, and links are not followed: delete it")
    if file.is_file() and _ID.fullmatch(found := file.read_text(encoding="utf-8").strip()):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    made = uuid.uuid4().hex[:16]
    write_whole(file, made + "\n")
    return made
