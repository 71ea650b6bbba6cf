"""The report's page: what it says, that it is only text, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from jinja2.runtime import Macro

from evolution.commands import report
from evolution.guard.verdicts import MARGIN
from evolution.reporting.charts import hover
from evolution.reporting.findings import find
from evolution.reporting.measures.audits import Verdict
from evolution.reporting.measures.data import read_run_data
from evolution.reporting.page import ENVIRONMENT
from evolution.reporting.sections import SECTIONS
from tests.evolution.synthetic_run import write_measured, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
EVIL = (
    "</pre></script><script>document.title = 'owned'</script>"
    "<img src=http://example.com/x onerror=\"document.title = 'owned'\"> &lt;b&gt; $x$ %{y} "
    "\x00 \x1b[31m \u2028 \u202e <a href='javascript:alert(1)'>link</a> <b>bold</b>"
)


class Elements(HTMLParser):
    """What a page holds: elements with their attributes, and the text outside scripts."""

    def __init__(self, page):
        super().__init__()
        self.found, self.words, self._inside = [], [], ""
        self.scripts = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def charts(self):
        (data,) = (s for s in self.scripts if s.startswith("{"))
        return json.loads(data)


def page_of(folder):
    file, _ = report.write_report(folder)
    return Elements(file.read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "my run", generations=8)


def test_the_page_says_what_the_run_did(folder):
    page = page_of(write_measured(folder))
    words = page.text
    assert "my run" in words
    for said in ("made-up", "procedural:chain_sum", "4 agents, rank 4", "8 of 8 asked for",
                 "populora-env 0.1.0"):  # fmt: skip
        assert said in words
    best = read_run_data(folder).best[-1]
    # 3 of 8 problems more, each a difference of 1: 0.375 with an error of sqrt(.375 * .625 / 7).
    assert (
        f"the best agent by standing ({best}) solves 0.750 ± 0.164, the base 0.375 ± 0.183: a "
        "difference of +0.375 ± 0.183, paired by problem. That is more than two" in words
    )
    assert "Audits, problem: forgetting." in words
    assert "-0.300 ± 0.050 on elsewhere" in words
    headings = [name for name, _ in page.found if name in ("h1", "h2")]
    assert headings == ["h1"] + ["h2"] * 10
    charts = page.charts
    assert set(charts) == {
        a["id"] for a in page.all("div") if "chart" in a.get("class", "").split()
    }
    assert {"family", "matrix", "judging", "map-early", "map-late"} < set(charts)
    assert len(page.all("figcaption")) == len(page.all("figure"))


def test_a_section_is_a_row_and_a_macro_of_its_name():
    found, shared = (
        {name for name, value in vars(ENVIRONMENT.get_template(file).module).items()
         if isinstance(value, Macro)}
        for file in ("sections.html", "pieces.html")
    )  # fmt: skip
    assert found - shared == {key.replace("-", "_") for key, _, _ in SECTIONS}


def test_links_lead_to_sections(folder):
    page = page_of(folder)
    targets = {attributes["id"] for _, attributes in page.found if "id" in attributes}
    links = [attributes["href"] for attributes in page.all("a")]
    assert links
    assert all(link.startswith("#") and link[1:] in targets for link in links)
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_nothing_is_loaded(folder):
    page = page_of(folder)
    for tag, attributes in page.found:
        assert "src" not in attributes, tag
        assert attributes.get("href", "#").startswith(("#", "data:,")), tag
    (policy,) = (a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert re.findall(r"script-src ([^;]*);", policy)[0].count("'sha256-") == 2
    assert "unsafe-eval" not in policy


@pytest.mark.parametrize("field", ["reply", "prompt", "agent", "setting"])
def test_what_a_run_wrote_is_only_ever_text(tmp_path, field):
    folder = tmp_path / "<b>run"
    if field == "prompt":
        write_run(folder, prompt=EVIL)
    elif field == "reply":
        write_run(folder, reply=lambda g, n, right: f"{EVIL} {g} {n} {right}")
    else:
        write_run(folder)
    if field == "agent":
        for name in ("history.jsonl", "transcripts.jsonl"):
            lines = (folder / name).read_text(encoding="utf-8")
            name_in_json = json.dumps(EVIL.replace("\x00", ""))[1:-1]
            (folder / name).write_text(lines.replace("agent_0", name_in_json), encoding="utf-8")
    if field == "setting":
        (folder / "run.toml").write_text(f"[config]\nmodel = {json.dumps(EVIL)}\n")
    page = page_of(folder)
    assert len(page.all("script")) == 3
    assert not page.all("img")
    assert not page.all("b")
    assert all(a["href"].startswith("#") for a in page.all("a"))
    assert "</script>" in page.text or field == "prompt"
    raw = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", raw.replace(_plotly(), ""))
    if field in ("reply", "agent"):
        texts = json.dumps(page.charts["map-early"])
        assert "&lt;script&gt;" in texts
        assert "<script>" not in texts
        assert "<a href" not in texts


def _plotly():
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def printed(template, value):
    return ENVIRONMENT.from_string(template).render(value=value)


def test_lone_surrogates_and_binary_noise_can_be_shown():
    assert printed("{{ value }}", "a\ud800b\x00<") == "a\ufffdb\ufffd&lt;"
    for quoted in ('"', "'"):
        evil = f"a{quoted} onclick={quoted}b"
        element = printed(f"<p title={quoted}{{{{ value }}}}{quoted}>", evil)
        assert Elements(element).all("p") == [{"title": evil}]
    assert hover("a\ud800b\x00<i>&amp;") == "a\ufffdb\ufffd&lt;i&gt;&amp;amp;"
    assert len(hover("x" * 5000)) < 600
    assert hover("x" * 130).count("<br>") == 2

    def embedded(value):
        return printed("{{ value|tojson }}", value)

    assert embedded({"a": "</script><!--\u2028\ud800"}).isascii()
    assert "<" not in embedded(["<>&"])
    assert json.loads(embedded(["<>&\u2028"])) == ["<>&\u2028"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded([float("nan")])


def test_numbers_are_short_and_what_is_unknown_is_empty():
    assert [printed("{{ value }}", value) for value in (0.12345, 7, None)] == ["0.123", "7", ""]
    with pytest.raises(UndefinedError):  # what no function worked out is no empty place
        printed("{{ values }}", 1)


def test_a_reply_with_surrogates_in_the_file(tmp_path):
    folder = write_run(tmp_path / "a", reply=lambda *_: "MARK here")
    lines = (folder / "transcripts.jsonl").read_text()
    (folder / "transcripts.jsonl").write_text(lines.replace("MARK", "\\ud800\\u0000"))
    assert "\ufffd\ufffd here" in json.dumps(page_of(folder).charts, ensure_ascii=False)


def test_an_older_run_says_what_it_did_not_record(tmp_path):
    folder = write_run(tmp_path / "old", generations=7, known=False)
    rows = [json.loads(line) for line in (folder / "history.jsonl").open()]
    kept = ("generation", "agent", "return")
    text = "".join(json.dumps({name: row[name] for name in kept}) + "\n" for row in rows)
    (folder / "history.jsonl").write_text(text)
    for name in ("transcripts.jsonl", "lineage.json", "run.toml"):
        (folder / name).unlink()
    page = page_of(folder)
    assert "Not recorded: fitness, accuracy, diversity, length." in page.text
    assert "not recorded" in page.text
    assert page.text.count("Not recorded in this run.") == 4
    assert set(page.charts) == {"curve-0"}
    assert {audit.verdict for audit in find(folder).audits} <= {Verdict.CANNOT_TELL, Verdict.FINE}


def test_what_a_newer_run_records_is_shown_as_well(folder):
    rows = [json.loads(line) for line in (folder / "history.jsonl").open()]
    text = "".join(json.dumps({**row, "vendi_score": 2.5}) + "\n" for row in rows)
    (folder / "history.jsonl").write_text(text)
    assert "Vendi score" in page_of(folder).text


def test_what_is_never_known_is_not_called_unrecorded(folder):
    rows = [json.loads(line) for line in (folder / "history.jsonl").open()]
    for row in rows:
        row.update(diversity=None, length=None)
        del row["fitness"]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = page_of(folder).text
    assert "Not recorded: fitness." in words
    assert "Known in no generation: diversity, length." in words
    assert "The length of replies is known in 0 of 8 generations" in words


def test_what_is_of_the_whole_population_is_one_line(folder):
    rows = [json.loads(line) for line in (folder / "history.jsonl").open()]
    text = "".join(
        json.dumps({**row, "vendi": 2.5, "diversity_weight": 0.5}) + "\n" for row in rows
    )
    (folder / "history.jsonl").write_text(text)
    charts = page_of(folder).charts
    names = [[trace.get("name") for trace in chart["data"]] for chart in charts.values()]
    assert names.count(["population"]) == 3  # and identical replies


def test_one_generation_and_one_agent(tmp_path):
    page = page_of(write_run(tmp_path / "a", generations=1))
    assert "map-late" not in page.charts
    single = write_run(tmp_path / "b", generations=2, agents=3, problems=1)
    lines = [json.loads(line) for line in (single / "transcripts.jsonl").open()]
    for line in lines:
        line["evaluations"], line["assessments"] = [], []
    (single / "transcripts.jsonl").write_text("".join(json.dumps(li) + "\n" for li in lines))
    words = page_of(single).text
    assert "Nobody judged anything" in words
    assert "No comparisons are kept" in words


def alone(folder):
    """Leave one agent of a run, as a population of one writes it."""
    for name, own in (
        ("history.jsonl", lambda row: row["agent"] == "agent_0"),
        ("held_out_curve.jsonl", lambda row: row["agent"] in ("base", "agent_0")),
    ):
        rows = [json.loads(line) for line in (folder / name).open()]
        text = "".join(json.dumps({**row, "best": True}) + "\n" for row in rows if own(row))
        (folder / name).write_text(text)
    (folder / "transcripts.jsonl").unlink()
    (folder / "lineage.json").write_text(
        json.dumps(json.loads((folder / "lineage.json").read_text())[:1])
    )
    return folder


def test_counts_of_one(tmp_path):
    words = page_of(alone(write_measured(write_run(tmp_path / "a", generations=1)))).text
    for said in ("1 generation of 1 agent.", "1 agent, rank 4", "1 individual was born",
                 "descend from 1 of 1 founder;", "of peers by 1 agent;"):  # fmt: skip
        assert said in words
    assert "majority vote" not in words
    assert not re.search(r"\b1 (generations|agents|individuals|founders|attempts)\b", words)
    assert "majority vote" in page_of(write_measured(write_run(tmp_path / "b"))).text


@pytest.mark.slow
def test_a_long_run_of_many_agents(tmp_path):
    folder = write_run(tmp_path / "a", generations=200, agents=16, problems=2, born_every=1)
    page = page_of(folder)
    assert len(page.charts["family"]["data"][-1]["x"]) == 16 + 199
    assert (folder / "report.html").stat().st_size < 8e6


def browse(file: Path, profile: Path):
    """Open a page in a browser without a screen; return its elements and what it complained of."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--no-first-run", f"--user-data-dir={profile}", "--window-size=1200,3000",
         "--virtual-time-budget=20000", "--enable-logging=stderr", "--v=0", "--dump-dom",
         file.resolve().as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Elements(done.stdout), complaints


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("evil", [False, True])
def test_a_browser_draws_all_charts_without_complaint(tmp_path, evil):
    reply = (lambda g, n, right: f"{EVIL} {n} {right} {'so ' * g}") if evil else None
    folder = write_measured(write_run(tmp_path / "a", reply=reply, prompt=EVIL if evil else "Add."))
    charts = page_of(folder).charts
    page, complaints = browse(folder / "report.html", tmp_path / "profile")
    assert complaints == []
    drawn = [a["id"] for a in page.all("div") if "js-plotly-plot" in a.get("class", "")]
    assert sorted(drawn) == sorted(charts)
    marks = [a for a in page.all("path") if "point" in a.get("class", "")]
    points = sum(len(trace["x"]) for trace in charts["map-early"]["data"] if trace["x"] != [None])
    assert len(marks) > points
    assert "a: PopuLoRA run" in page.words
    assert "owned" not in page.words


@pytest.mark.slow
@needs_browser
def test_the_browser_test_would_notice_an_error(tmp_path):
    file = tmp_path / "x.html"
    file.write_text("<title>x</title><script>null.x</script><img src='http://127.0.0.1:9/x'>")
    _, complaints = browse(file, tmp_path / "profile")
    assert any("TypeError" in line for line in complaints)


def test_the_guards_section_says_what_it_measured_and_did(tmp_path):
    folder = write_run(tmp_path / "run", generations=3)
    rows = []
    for generation in range(3):
        for agent in ("agent_0", "agent_1"):
            bad = generation == 2 and agent == "agent_1"
            tests = {"base": {"worse": 9 if bad else 1, "better": 0, "p": 0.001 if bad else 0.5}}
            rows.append({
                "generation": generation, "agent": agent, "individual": "g0-1", "signals": {},
                "flags": [{"signal": "length"}] if bad else [], "anchors": 0.25 if bad else 0.75,
                "base_anchors": 0.5, "forgotten": None, "verdict": {"bad": bad, "tests": tests},
                "rung": "note" if bad else "clear", "step": "note" if bad else None,
                "up": True if bad else None, "what": "noted as worse" if bad else "",
                "replies": 16, "places": 4, "stop": "",
            })  # fmt: skip
    (folder / "guard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(folder)
    for said in (
        "6 verdicts, 1 bad",
        "agents were flagged 1 times (length 1)",
        "48 replies to anchors, and 12 of one token",
        "noted as worse",
        "base: 9 against, 0 for, p 0.001",
    ):
        assert said in page.text
    assert "guard-anchors" in page.charts
    (folder / "guard.jsonl").unlink()
    assert "anchor problems" not in page_of(folder).text


def test_the_guards_section_says_what_a_verdict_calls_forgetting(tmp_path):
    folder = write_run(tmp_path / "run", generations=2)
    row = {
        "generation": 1, "agent": "agent_0", "individual": "g0-0", "signals": {}, "flags": [],
        "anchors": None, "base_anchors": None, "forgotten": 0.1, "verdict": None, "rung": "clear",
        "step": None, "up": None, "what": "", "replies": 0, "places": 4, "stop": "",
    }  # fmt: skip
    (folder / "guard.jsonl").write_text(json.dumps(row) + "\n")
    page = page_of(folder)
    assert "guard-forgotten" in page.charts
    assert f"the prompts above {MARGIN:g} nats, and is bad if clearly more than half" in page.text
