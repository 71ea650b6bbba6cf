from __future__ import annotations

import re
import tomllib
from dataclasses import replace

import numpy as np
import pytest

from agents.measuring.paired import holm, sign_flip
from evolution.studies.charts import chart
from evolution.studies.comparing import answers
from evolution.studies.drawing import WIDTH
from evolution.studies.file import study_of
from evolution.studies.measured import FIGURES, Measured
from tests.evolution.studies import synthetic

STUDY = """
name = "compared"
seeds = 5
replies = [12, 48]
held_out = 40
[settings]
size = 3
offspring = 1
elites = 1
[arms.low]
[arms.high]
learning_rate = 0.1
[arms.other]
learning_rate = 0.2
[[questions]]
title = "Is high higher?"
beside = ["base"]
arms = ["low", "high", "other:vote"]
against = "low"
[[questions]]
title = "Over replies"
x = "replies"
figure = "members"
beside = ["base"]
arms = ["low", "high"]
against = "low"
"""


@pytest.fixture
def study():
    return study_of(tomllib.loads(STUDY))


@pytest.fixture
def cells(study):
    return synthetic.cells(study, {"low": 0.3, "high": 0.5, "other": 0.4}, growth=0.05)


def test_figures_of_what_was_measured():
    found = Measured(
        budget=1, replies=1, generations=1, seconds=1.0, champion="1100", members=("1100", "0101"),
        vote="0100", ties={"0": 0.5, "3": 0.5}, average="1111", vendi=1.5,
        training={"return": 0.3, "valid": 0.5},
    )  # fmt: skip
    values = {name: figure.values(found).tolist() for name, figure in FIGURES.items()}
    assert values["accuracy"] == [1, 1, 0, 0]
    assert np.isnan(values["leader"]).all()
    leading = replace(found, leader=1)
    assert FIGURES["leader"].values(leading).tolist() == [0, 1, 0, 1]
    alone = replace(found, members=("1100",))
    assert FIGURES["leader"].values(alone).tolist() == [1, 1, 0, 0]
    assert values["members"] == [0.5, 1, 0, 0.5]
    assert values["vote"] == [0.5, 1, 0, 0.5]
    assert values["any"] == [1, 1, 0, 1]
    assert values["average"] == [1, 1, 1, 1]
    assert values["vote_gain"] == [0, 0, 0, 0]
    assert values["vendi"] == [1.5]
    assert np.isnan(values["vendi_answers"]).all()
    assert (values["train_return"], values["proposals_valid"]) == ([0.3], [0.5])
    assert np.isnan(values["proposals_new"]).all()


def test_differences_are_paired_by_seed(study, cells):
    found, _ = answers(study, cells)
    base, low, high, other = found.rows
    assert [row.comparison is None for row in found.rows] == [True, True, False, False]
    assert (base.label, other.label) == ("base model", "other: vote")
    own = [cells["high"][seed].measured[-1].champion.count("1") / 40 for seed in range(5)]
    reference = [cells["low"][seed].measured[-1].champion.count("1") / 40 for seed in range(5)]
    wanted = np.subtract(own, reference)
    assert list(high.values.values()) == pytest.approx(own)
    assert list(high.comparison.by_seed.values()) == pytest.approx(wanted.tolist())
    assert high.comparison.difference.mean == pytest.approx(wanted.mean())
    assert high.comparison.p == pytest.approx(sign_flip(wanted.tolist()))
    assert [high.comparison.corrected, other.comparison.corrected] == pytest.approx(
        holm([high.comparison.p, other.comparison.p])
    )
    assert (low.replies, low.seconds, low.cut_off) == (54, 2.4, 0)


def test_only_seeds_that_both_have_are_compared(study, cells):
    cells["high"] = {seed: cells["high"][seed] for seed in (1, 2, 3)}
    cells["low"] = {seed: cells["low"][seed] for seed in (2, 3, 4)}
    cells["high"][3] = replace(cells["high"][3], problems="others")
    _, low, high, other = answers(study, cells)[0].rows
    assert (low.interval.seeds, high.interval.seeds) == (3, 3)
    assert list(high.comparison.by_seed) == [2]
    assert (high.comparison.p, high.comparison.corrected) == (None, None)
    assert high.comparison.difference.low is None
    assert other.comparison.corrected == other.comparison.p  # the only test that is left
    assert answers(study, cells)[0].notes == (
        "high: seeds that were measured on other problems than low are not compared",
    )


def test_curves_compare_each_budget_and_the_base_has_none(study, cells):
    rows = answers(study, cells)[1].rows
    assert [(row.entry.arm, row.budget) for row in rows] == [
        ("base", None), ("low", 12), ("low", 48), ("high", 12), ("high", 48)
    ]  # fmt: skip
    first, last = rows[3].comparison, rows[4].comparison
    assert [first.corrected, last.corrected] == pytest.approx(holm([first.p, last.p]))
    at_first = [cells[arm][0].measured[0] for arm in ("high", "low")]
    means = [FIGURES["members"].values(one).mean() for one in at_first]
    assert first.by_seed[0] == pytest.approx(means[0] - means[1])


def test_what_was_not_played_is_said_and_what_was_cut_off_is_counted(study, cells):
    cells["other"] = {}
    cut = cells["high"][0].measured[-1]
    cells["high"][0] = replace(
        cells["high"][0], measured=(replace(cut, budget=48, replies=60),), cut_off=True
    )
    first, second = answers(study, cells)
    assert first.notes == ("not played yet: other: vote",)
    assert first.rows[2].cut_off == 1  # though a last trial's replies come to more than the budget
    assert [row.cut_off for row in second.rows] == [0, 0, 0, 0, 1]
    assert [row.interval.seeds for row in second.rows] == [5, 5, 5, 4, 5]


def test_a_question_of_one_figure_is_headed_by_it_though_each_entry_names_it(cells):
    asked = 'title = "How different?"\narms = ["low:vendi", "high:vendi"]'
    study = study_of(tomllib.loads(f"{STUDY}[[questions]]\n{asked}"))
    answer = answers(study, cells)[-1]
    assert (answer.words, answer.share) == (FIGURES["vendi"].words, False)
    drawn = chart(answer, 5)
    places = [float(place) for place in re.findall(r'c?x="([-0-9.]+)"', drawn)]
    assert FIGURES["vendi"].words in drawn
    assert all(0 <= place <= WIDTH for place in places)


def test_nothing_played_is_no_rows(study):
    empty = {arm: {} for arm in study.arms}
    assert [answer.rows for answer in answers(study, empty)] == [(), ()]


def test_figures_of_members_are_not_known_where_none_was_measured():
    whole = synthetic.measured(0, "one", 12, 0.5)
    alone = replace(whole, members=(), vote="", average="", vendi=None)
    for name, figure in FIGURES.items():
        if figure.of_members:
            assert np.isnan(figure.values(alone)).all(), name
        else:
            np.testing.assert_array_equal(figure.values(alone), figure.values(whole))
    assert not FIGURES["accuracy"].of_members
    assert FIGURES["vote_gain"].of_members
