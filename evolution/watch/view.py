"""View: what the page shows of a run, worked out when something changed and only then."""

import json
import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, PackageLoader

from evolution.errors import UsageError
from evolution.reporting.charts import Chart
from evolution.reporting.measures.data import RunData
from evolution.reporting.page import ENVIRONMENT, plain_figures
from evolution.reporting.sections import facts
from evolution.runs.lock import is_played
from evolution.watch.conversation import episodes_shown
from evolution.watch.follower import Follower
from evolution.watch.sections import SECTIONS, find_live

TEMPLATES = ENVIRONMENT.overlay(
    loader=ChoiceLoader(
        [PackageLoader(room, "assets") for room in ("evolution.watch", "evolution.reporting")]
    )
)


class View:
    """What a browser is told of a run.

    Args:
        path: The run's folder.
    """

    def __init__(self, path: Path) -> None:
        self._follower = Follower(path)
        self._lock = threading.Lock()  # requests are answered in threads
        self._run: RunData | None = None
        self._new = True  # whether anything was read that is not shown yet
        self._begun, self._version = secrets.token_hex(4), 0
        self._shown: dict[str, Any] = {}

    def page(self) -> str:
        """The page itself, which then asks for the rest."""
        return TEMPLATES.get_template("watch.html").render(name=self._follower.path.resolve().name)

    def state(self, seen: str = "") -> str:
        """What there is to show, as JSON; while a long run is being read, how much of it was.

        Args:
            seen: The ``version`` that the asker has: if nothing changed since, only the status.
        """
        with self._lock:
            self._look()
            if (share := self._follower.share_read()) is not None:
                return json.dumps({"reading": share})
            version = f"{self._begun}-{self._version}"
            told = {"version": version, **self._status()}
            return json.dumps(told if seen == version else {**told, **self._shown})

    def episodes(self, generation: int | None, number: int | None) -> str:
        """Episodes of a generation, and one of them whole, as HTML; see `episodes_shown`."""
        with self._lock:
            self._look()
            values = episodes_shown(self._follower, generation, number)
        return _filled("episodes", **values) if values else _filled("no_episodes")

    def _look(self) -> None:
        """Read what is new, and if anything is, work out what is shown."""
        self._new = self._follower.poll() or self._new
        if self._new and self._follower.share_read() is None:
            self._new, self._version = False, self._version + 1
            self._shown = self._work_out()

    def _work_out(self) -> dict[str, Any]:
        follower = self._follower
        self._run = run = follower.run()
        if run is None:
            waiting = _filled("waiting", folder=str(follower.path.resolve()))
            return _told(follower, "", [["waiting", "", waiting]], [])
        found = find_live(follower, run)
        worked = [(key, title, work(follower, found)) for key, title, work in SECTIONS]
        known = [(key, title, values) for key, title, values in worked if values is not None]
        charts = [chart for _, _, values in known for chart in values.get("charts", ())]
        sections = [[key, title, _filled(key, **values)] for key, title, values in known]
        return _told(follower, _filled("facts", facts=facts(found)), sections, charts)

    def _status(self) -> dict[str, Any]:
        """How far the run is, and since when nothing was written."""
        run, written = self._run, self._follower.written()
        done = run.generations[-1] + 1 if run else 0
        return {
            "played": is_played(self._follower.path),
            "done": done,
            "asked": self._follower.asked_for(),
            "age": None if written is None else max(time.time() - written, 0.0),
        }


def _told(
    follower: Follower, facts: str, sections: list[list[str]], charts: Sequence[Chart]
) -> dict[str, Any]:
    return {
        "facts": facts,
        "notices": follower.notices,
        "sections": sections,
        "charts": plain_figures(charts),
    }


def _filled(key: str, **values: Any) -> str:
    """A macro of the page's, or else of the report's, with its arguments."""
    name = key.replace("-", "_")
    for template in ("watched.html", "sections.html"):
        macro = getattr(TEMPLATES.get_template(template).module, name, None)
        if macro is not None:
            return str(macro(**values))
    raise UsageError(f"section: no template says {key}")
