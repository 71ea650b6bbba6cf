"""The charts: that what is known is drawn, and that marks and colours mean what the legend says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evolution.reporting.charts import add_held_out, curve
from evolution.reporting.maps import family_chart
from evolution.reporting.measures.data import read_run_data
from evolution.reporting.measures.family import family
from evolution.reporting.measures.measured import HeldOutCurve
from evolution.reporting.measures.proposals import course, read_proposals
from evolution.reporting.proposal_charts import course_charts
from tests.evolution.synthetic_run import write_run
from tests.evolution.synthetic_self_play import write_self_play_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run_data(write_run(tmp_path_factory.mktemp("runs") / "a", generations=8))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return read_run_data(write_run(tmp_path_factory.mktemp("runs") / "a", generations=1))


def traces_of(figure):
    return {trace.name: trace for trace in figure.data}


def test_values_of_every_few_generations_are_drawn(run):
    values = np.full((8, 4), np.nan)
    values[[0, 3, 6]] = 0.5
    traces = traces_of(curve("x", run, values).figure)
    for name in ("mean", "best by standing"):
        assert list(traces[name].x) == [0, 3, 6]
        assert np.isfinite(traces[name].y).all()
        assert traces[name].mode == "lines+markers"


def test_a_single_generation_is_drawn(single):
    values = np.array([[0.2, 0.4, 0.6, 0.8]])
    chart = curve("x", single, values, error=np.array([0.1]), share=True)
    add_held_out(chart, single, None, HeldOutCurve(0.3, np.full((1, 4), np.nan)))
    traces = traces_of(chart.figure)
    for name, ends in (("all agents", [0.2, 0.8]), ("± 1 s.e.", [0.4, 0.6])):
        assert list(traces[name].x) == [0, 0]
        assert list(traces[name].y) == pytest.approx(ends)
        assert traces[name].line.width > 5
    assert "markers" in traces["best by standing"].mode
    base = traces["held out: base"]
    assert (list(base.x), list(base.y), base.mode) == ([0], [0.3], "markers")


def test_charts_of_proposals_have_legends_and_show_a_single_generation(tmp_path):
    run = read_run_data(write_self_play_run(tmp_path / "run", generations=1))
    charts = course_charts(run, course(run, read_proposals(run)))
    assert all(chart.figure.layout.showlegend for chart in charts)
    assert all("markers" in trace.mode for trace in charts[-1].figure.data)


def test_colours_of_accuracy_go_from_0_to_1_and_others_over_some_range(run):
    births = family_chart(run, family(run)).figure.data[-1]
    assert (births.marker.cmin, births.marker.cmax) == (0, 1)
    equal = {"fitness": np.full((8, 4), 0.3) + 1e-13 * np.arange(4)}
    without = dataclasses.replace(run, series=equal)
    births = family_chart(without, family(without)).figure.data[-1]
    assert births.marker.cmax - births.marker.cmin >= 0.5
    equal["fitness"][:, 0] = 0.1
    births = family_chart(without, family(without)).figure.data[-1]
    assert (births.marker.cmin, births.marker.cmax) == pytest.approx((0.1, 0.3))


def test_the_legend_tells_births_from_the_best(run):
    tree = dataclasses.replace(family(run), best=family(run).lives[0].birth.name)
    figure = family_chart(run, tree).figure
    shown = {trace.name: trace.marker.symbol for trace in figure.data
             if trace.showlegend is not False and trace.mode == "markers"}  # fmt: skip
    assert shown == {"the best": "star", "birth": "circle"}
    assert figure.data[-1].marker.symbol[0] == "star"
