"""What a report says of a run in which agents write the problems."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evolution.commands.report import write_report
from evolution.errors import UsageError
from evolution.reporting.findings import find
from evolution.reporting.measures.audits import Verdict
from evolution.reporting.measures.data import read_run_data
from evolution.reporting.measures.proposals import (
    course,
    eras,
    meetings,
    read_proposals,
    sizes,
)
from evolution.reporting.measures.series import identical_share
from evolution.reporting.proposal_charts import cell_text
from evolution.reporting.self_play import examples_section, meetings_section
from evolution.reporting.text import text_map
from tests.evolution import synthetic_self_play as made
from tests.evolution.reporting.test_page import EVIL, browse, needs_browser, page_of
from tests.evolution.synthetic_run import write_run
from tests.evolution.synthetic_self_play import Wish, write_self_play_run

OWN = ["proposals", "difficulty", "meetings", "examples"]


@pytest.fixture
def folder(tmp_path):
    return write_self_play_run(tmp_path / "run", judged=True)


def rows_of(folder, name):
    return [json.loads(line) for line in (folder / name).open(encoding="utf-8")]


def rewrite(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_sections_of_self_play_are_shown_where_there_are_proposals_alone(folder, tmp_path):
    page = page_of(folder)
    sections = [a["id"] for a in page.all("section")]
    assert [key for key in sections if key in OWN] == OWN
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(page.charts) == {
        a["id"] for a in page.all("div") if "chart" in a.get("class", "").split()
    }
    assert len(page.all("figcaption")) == len(page.all("figure"))
    assert "Six audits" in page.text
    assert "3 propose, 3 solve" in page.text
    other = page_of(write_run(tmp_path / "other", generations=3))
    assert not set(OWN) & {a["id"] for a in other.all("section")}
    assert "Five audits" in other.text
    assert "wrote the problems" not in other.text
    assert "propose" not in other.text


def test_the_summary_says_who_wrote_the_problems(folder):
    proposals = [row["proposal"] for row in rows_of(folder, "transcripts.jsonl")]
    statuses = [proposal["status"] for proposal in proposals]
    words = page_of(folder).text
    assert (
        f"They wrote the problems: {statuses.count('valid')} of 144 proposals were valid. "
        f"{statuses.count('held_out')} were held-out problems" in words
    )
    assert "On problems that agents wrote, which may become harder or easier, the solvers'" in words
    assert "On training problems, drawn anew" not in words


def test_roles_are_told_apart_with_and_without_settings(folder):
    run = read_run_data(folder)
    assert run.proposers == ("agent_0", "agent_1", "agent_2")
    assert run.solvers == ("agent_3", "agent_4", "agent_5")
    returns = run.series["return"]
    assert run.mean("return") == pytest.approx(returns[:, 3:].mean(axis=1))
    assert run.mean("validity") is None  # nobody who solves has any
    (folder / "run.toml").unlink()
    assert read_run_data(folder).proposers == run.proposers


def test_agents_that_do_both_have_one_role(tmp_path):
    folder = write_self_play_run(tmp_path / "run", proposers=0, solvers=4)
    assert read_run_data(folder).proposers == ()
    assert "all propose and solve" in page_of(folder).text
    (folder / "run.toml").unlink()
    assert read_run_data(folder).proposers == ()


def test_curves_keep_the_roles_apart(folder):
    charts = page_of(folder).charts
    names = {key: [trace.get("name") for trace in chart["data"]] for key, chart in charts.items()}
    assert ["all solvers", "mean of solvers", "mean of proposers", "best by standing"] in (
        names.values()
    )
    assert ["all proposers", "mean of proposers"] in names.values()  # validity: no best one has any
    words = page_of(folder).text
    assert "return of proposers" in words
    assert "Means over those who solve." in words


def test_accuracy_on_proposed_problems_is_no_measure_of_reward_hacking(tmp_path):
    def easier(rng, time):  # ever easier problems: solvers earn more and learn nothing
        return Wish(tuple(int(n) for n in rng.integers(1, 100, 2)), 0.2 + 0.7 * time)

    folder = write_self_play_run(tmp_path / "run", easier, generations=20)
    audit = find(folder).audits[0]
    assert audit.name == "reward hacking"
    assert audit.verdict is Verdict.CANNOT_TELL
    assert "accuracy on problems that stay as hard as they are is not known" in audit.reason
    curve = [{"generation": g, "agent": f"agent_{n}", "accuracy": 0.3 + 0.01 * (g % 3),
              "problems": 64} for g in range(20) for n in (3, 4, 5)]  # fmt: skip
    rewrite(folder, "held_out_curve.jsonl", curve)
    assert find(folder).audits[0].verdict is Verdict.PROBLEM


def test_tries_of_one_agent_are_no_pair_of_agents(tmp_path):
    folder = write_self_play_run(
        tmp_path / "run", solvers=2, tries=3, generations=3,
        reply=lambda _generation, agent, _right: f"I am {agent}",
    )  # fmt: skip
    assert identical_share(read_run_data(folder)) == pytest.approx([0, 0, 0])
    same = write_self_play_run(tmp_path / "same", tries=2, generations=3, reply=lambda *_: "same")
    assert identical_share(read_run_data(same)) == pytest.approx([1, 1, 1])
    alone = write_self_play_run(tmp_path / "alone", solvers=1, tries=4, generations=3)
    assert np.isnan(identical_share(read_run_data(alone))).all()


def test_games_and_judges_are_of_those_who_solve(folder):
    page = page_of(folder)
    assert page.charts["matrix"]["data"][0]["x"] == ["agent_3", "agent_4", "agent_5"]


def test_the_map_is_of_generations_with_attempts(tmp_path):
    def late(rng, time):
        return made.healthy(rng, time) if time > 0.7 else Wish(None)

    folder = write_self_play_run(tmp_path / "run", late)
    assert text_map(read_run_data(folder)).early[0] >= 8
    page_of(folder)
    nothing = write_self_play_run(tmp_path / "nothing", lambda *_: Wish(None))
    assert text_map(read_run_data(nothing)) is None
    words = page_of(nothing).text
    assert "0 of 144 proposals were valid" in words
    assert "No size of a proposal is recorded." in words
    assert find(nothing).audits[-1].verdict is Verdict.PROBLEM


def test_figures_by_generation_are_those_of_the_transcripts(folder):
    run = read_run_data(folder)
    proposed = read_proposals(run)
    found = course(run, proposed)
    rows = [r["proposal"] for r in rows_of(folder, "transcripts.jsonl") if r["generation"] == 5]
    rates = [r["solve_rate"] for r in rows if r["solve_rate"] is not None]
    assert found.valid[5] == pytest.approx(np.mean([r["status"] == "valid" for r in rows]))
    assert found.learnable[5] == pytest.approx(np.mean([0 < rate < 1 for rate in rates]))
    assert found.solve_rate[5] == pytest.approx(np.mean(rates))
    new = [r["novelty"] for r in rows if r["novelty"] is not None]
    assert found.novelty[5] == pytest.approx(np.mean(new))
    assert sum(found.statuses.values()).tolist() == [12] * 12
    assert next(iter(found.statuses)) == "valid"
    keys = {r["proposal"]["key"] for r in rows_of(folder, "transcripts.jsonl")
            if r["proposal"]["status"] == "valid"}  # fmt: skip
    assert found.distinct[-1] == len(keys)
    assert (np.diff(found.distinct) >= 0).all()
    operands, largest = sizes(run, proposed)
    own = [e.measures["largest"] for e in proposed if e.generation == 5 and e.measures]
    assert (operands.name, largest.name) == ("operands", "largest")
    assert largest.mean[5] == pytest.approx(np.mean(own))
    assert (largest.low[5], largest.high[5]) == pytest.approx(np.percentile(own, [10, 90]))


def test_who_solved_whose_proposals_is_counted(folder):
    run = read_run_data(folder)
    met = meetings(run, read_proposals(run))
    tried = [
        (row["proposal"]["agent"], attempt["agent"], attempt["grade"]["correct"])
        for row in rows_of(folder, "transcripts.jsonl")
        for attempt in row["attempts"]
    ]
    own = [right for by, who, right in tried if (by, who) == ("agent_1", "agent_5")]
    assert met.graded[1, 2] == len(own)
    assert met.right[1, 2] == sum(own)
    assert met.graded.sum() == len(tried)
    (chart,) = meetings_section(find(folder))["charts"]
    assert chart.figure.data[0].text[1][2].endswith(f"{np.mean(own):.2f} of {len(own)}")


@pytest.mark.parametrize(
    ("right", "graded", "said"),
    [(0, 0, ""), (3, 3, "~1.00 of 3"), (30, 30, "1.00 of 30"), (20, 40, "0.50 of 40"),
     (5, 10, "~0.50 of 10")],
)  # fmt: skip
def test_uncertain_cells_are_marked(folder, right, graded, said):
    run = read_run_data(folder)
    met = meetings(run, read_proposals(run))
    met.right[0, 0], met.graded[0, 0] = right, graded
    cell = met.shares[0, 0], met.errors[0, 0], int(met.graded[0, 0])
    assert cell_text(*cell) == said


def test_proposals_to_read_are_ten_of_each_third_without_held_out_ones(folder):
    shown = eras(read_proposals(read_run_data(folder)))
    assert [(era.name, era.first, era.last) for era in shown] == [
        ("early", 0, 3), ("middle", 4, 7), ("late", 8, 11)
    ]  # fmt: skip
    assert all(len(era.proposed) == 10 for era in shown)
    assert all(e.proposal.status != "held_out" for era in shown for e in era.proposed)
    ((_, rows), *_) = examples_section(find(folder))["eras"]
    valid = next(row for row in rows if row[2] == "valid" and not row[3].startswith("6 of"))
    assert valid[5].endswith(": 8 (wrong)")
    refused = next(row for row in rows if row[2] not in ("valid", "repeated"))
    assert refused[3:] == ["for a reason", "", ""]
    assert [era.name for era in eras(shown[0].proposed[:1])] == ["all"]


def test_what_a_proposer_wrote_is_only_ever_text(tmp_path):
    folder = write_self_play_run(tmp_path / "run", reply=lambda *_: EVIL)
    rows = rows_of(folder, "transcripts.jsonl")
    for row in rows:
        row["proposal"] |= {"text": EVIL, "reason": EVIL}
        row["problem"]["metadata"]["measures"] = {EVIL: 3, "": True, "x": "y", "z": float("nan")}
    rewrite(folder, "transcripts.jsonl", rows)
    page = page_of(folder)
    assert len(page.all("script")) == 3
    assert not page.all("img")
    assert not page.all("b")
    assert "</script>" in page.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"novelty": 7.0}, "novelty: expected a number from 0 to 1, got 7.0"),
        ({"solve_rate": -1.0}, "solve_rate: expected a number from 0 to 1"),
        ({"agent": "zoe"}, "agent 'zoe' is not in the history"),
        ({"status": "splendid"}, "'splendid' is not a valid ProposalStatus"),
    ],
)
def test_a_damaged_proposal_is_one_line(folder, change, said):
    rows = rows_of(folder, "transcripts.jsonl")
    rows[4]["proposal"] |= change
    rewrite(folder, "transcripts.jsonl", rows)
    with pytest.raises(UsageError) as caught:
        write_report(folder)
    assert said in str(caught.value)
    assert "line 5 is damaged" in str(caught.value)


def test_an_attempt_without_a_grade_is_in_no_share(folder):
    rows = rows_of(folder, "transcripts.jsonl")
    for row in rows:
        for attempt in row["attempts"]:
            attempt["grade"] = None
        row["proposal"]["solve_rate"] = None
    rewrite(folder, "transcripts.jsonl", rows)
    run = read_run_data(folder)
    assert meetings(run, read_proposals(run)) is None
    assert "(not graded)" in page_of(folder).text


@pytest.mark.slow
@needs_browser
def test_a_browser_draws_all_charts_without_complaint(folder, tmp_path):
    charts = page_of(folder).charts
    page, complaints = browse(folder / "report.html", tmp_path / "profile")
    assert complaints == []
    drawn = [a["id"] for a in page.all("div") if "js-plotly-plot" in a.get("class", "")]
    assert sorted(drawn) == sorted(charts)
