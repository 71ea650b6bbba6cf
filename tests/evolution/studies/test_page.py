from __future__ import annotations

import tomllib
import xml.etree.ElementTree as ElementTree

import pytest

from evolution.studies.charts import chart
from evolution.studies.comparing import answers
from evolution.studies.drawing import round_ticks
from evolution.studies.file import study_of
from evolution.studies.measured import FIGURES
from evolution.studies.page import write_page
from evolution.studies.tables import differences, explained, means, p_text
from tests.evolution.studies import synthetic
from tests.evolution.studies.test_comparing import STUDY

SVG = "{http://www.w3.org/2000/svg}"


def page_of(text=STUDY, **chances):
    study = study_of(tomllib.loads(text))
    cells = synthetic.cells(study, {"low": 0.3, "high": 0.5, "other": 0.4, **chances}, 0.05)
    return study, cells, answers(study, cells)


def texts(svg):
    return [entry.text for entry in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_tables_hold_means_intervals_and_differences():
    _, _, (found, curve) = page_of()
    grid = means(found)
    assert grid.head == ("arm", "seeds", "share of the problems that is right", "95 % interval",
                         "replies", "seconds")  # fmt: skip
    assert [row[0] for row in grid.rows] == ["base model", "low", "high", "other: vote"]
    high = found.rows[2]
    assert grid.rows[2][1:4] == (
        "5", f"{high.interval.mean:.3f}", f"{high.interval.low:.3f} to {high.interval.high:.3f}"
    )  # fmt: skip
    compared = differences(found)
    assert [row[0] for row in compared.rows] == ["high", "other: vote"]
    assert compared.rows[0][2] == f"{high.comparison.difference.mean:+.3f}"
    assert compared.rows[0][-1] == p_text(high.comparison.corrected)
    assert means(curve).head[1] == "budget"
    assert [row[1] for row in means(curve).rows] == ["", "12", "48", "12", "48"]


def test_intervals_of_shares_stay_shares():
    _, _, (found, _) = page_of(STUDY.replace("seeds = 5", "seeds = 2"), high=0.99)
    low, high = means(found).rows[2][3].split(" to ")
    assert 0 <= float(low) <= float(high) <= 1


def test_a_single_seed_has_no_interval_and_that_is_said():
    study, _, found = page_of(STUDY.replace("seeds = 5", "seeds = 1"))
    assert means(found[0]).rows[1][3] == "one seed"
    assert differences(found[0]).rows[0][-3:] != ("", "", "")
    assert differences(found[0]).rows[0][-2:] == ("", "")
    assert any("A single seed has no interval" in said for said in explained(study, found))
    assert "one seed" in texts(chart(found[0], 40))


@pytest.mark.parametrize(("p", "text"), [(None, ""), (0.0004, "< 0.001"), (0.25, "0.250")])
def test_p_values_as_text(p, text):
    assert p_text(p) == text


def test_figures_are_whole_and_say_what_they_show():
    named = STUDY.replace("[arms.high]", '[arms.high]\nlabel = "<high> & so on"')
    _, _, (found, curve) = page_of(named)
    said = texts(chart(found, 40))
    for words in ("Is high higher?", "<high> & so on", "share of the problems that is right",
                  "40 held-out problems a seed, 5 seeds: small dots are seeds, lines are 95 % "
                  "intervals of the mean"):  # fmt: skip
        assert words in said
    found_svg = ElementTree.fromstring(chart(found, 40))
    assert len(list(found_svg.iter(f"{SVG}circle"))) == 4 * (5 + 1)  # seeds and a mean each
    said = texts(chart(curve, 40))
    for words in ("12", "48", "replies in training", "mean accuracy of the members", "low"):
        assert words in said
    assert len(list(ElementTree.fromstring(chart(curve, 40)).iter(f"{SVG}polyline"))) == 2


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_all_that_is_drawn_is_inside(seeds):
    _, _, found = page_of(STUDY.replace("seeds = 5", f"seeds = {seeds}"))
    for answer in found:
        svg = ElementTree.fromstring(chart(answer, 40))
        width, height = float(svg.get("width")), float(svg.get("height"))
        for dot in svg.iter(f"{SVG}circle"):
            assert 0 <= float(dot.get("cx")) <= width
            assert 0 <= float(dot.get("cy")) <= height
        for line in svg.iter(f"{SVG}line"):
            assert all(0 <= float(line.get(end)) <= width for end in ("x1", "x2"))
            assert all(0 <= float(line.get(end)) <= height for end in ("y1", "y2"))


@pytest.mark.parametrize(
    ("low", "high", "figure", "ticks"),
    [
        (0.52, 0.78, "accuracy", [0.5, 0.6, 0.7, 0.8]),
        (0.9, 1.08, "accuracy", [0.9, 0.95, 1.0]),
        (1.2, 3.9, "vendi", [1.0, 2.0, 3.0, 4.0]),
        (0.5, 0.5, "vendi", [0.44, 0.46, 0.48, 0.5, 0.52, 0.54, 0.56]),
        (0.0, 0.0, "accuracy", [0.0, 0.02, 0.04, 0.06]),
    ],
)
def test_ticks_are_round_and_enclose_all(low, high, figure, ticks):
    share = FIGURES[figure].share
    assert round_ticks(low, high, share=share) == pytest.approx(ticks)


def test_the_page_links_its_figures_and_is_the_same_again(tmp_path):
    study, cells, found = page_of()
    files = write_page(tmp_path, study, cells, found)
    assert {file.name for file in files} == {"table.md", "is-high-higher.svg", "over-replies.svg"}
    before = {file.name: file.read_bytes() for file in files}
    text = before["table.md"].decode()
    assert "![Is high higher?](is-high-higher.svg)" in text
    assert text.count("| arm | ") == 5  # two for each question, and one of all arms
    write_page(tmp_path, study, cells, found)
    assert {file.name: file.read_bytes() for file in files} == before
