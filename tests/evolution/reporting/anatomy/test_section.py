"""The section on the page: which charts there are, what they hold, and a page that stands."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from evolution.lowrank.anatomy import measure
from evolution.reporting.anatomy.ablation import (
    AblatedAgent,
    Ablation,
    ablation_file,
    ablation_text,
)
from evolution.reporting.anatomy.charts import drift_chart
from evolution.reporting.anatomy.reading import read_adapters
from evolution.reporting.measures.data import read_run_data
from evolution.runs.saved_run import SavedRun
from tests.evolution.made_up_adapters import DEPTH, NAMES, factors, moved, write_adapters
from tests.evolution.reporting.test_page import browse, needs_browser, page_of
from tests.evolution.synthetic_run import write_run
from tests.evolution.test_manager import config, make

ALWAYS = {"inside-sizes", "inside-agents", "inside-differences", "inside-distances",
          "inside-cosines", "inside-reads", "inside-writes", "inside-ranks"}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    made = write_run(tmp_path / "run", generations=8, born_every=100)
    write_adapters(made, 3, [factors(seed) for seed in range(4)])
    write_adapters(made, 7, [moved(factors(seed), 0.1) for seed in range(4)])
    return made


def inside_of(page):
    return {key: chart for key, chart in page.charts.items() if key.startswith("inside-")}


def numbers(cells):
    return np.array([[np.nan if v is None else v for v in row] for row in cells], float)


def values(chart):
    """The numbers of a heat map, which plotly writes as lists, or in base 64 with a shape."""
    z = chart["data"][0]["z"]
    if isinstance(z, dict):
        import base64

        kind = np.dtype(z["dtype"])
        shape = [int(n) for n in str(z["shape"]).split(",")]
        return np.frombuffer(base64.b64decode(z["bdata"]), kind).reshape(shape)
    return numbers(z)


def test_a_run_without_adapters_has_no_section(tmp_path):
    page = page_of(write_run(tmp_path / "run", generations=2))
    assert "Anatomy" not in page.text


def test_the_section_shows_what_was_measured(folder):
    page = page_of(folder)
    charts = inside_of(page)
    assert set(charts) == ALWAYS | {"inside-moved", "inside-moves"}
    found = measure(read_adapters(SavedRun(folder).adapters_in(7)))
    np.testing.assert_allclose(values(charts["inside-cosines"]), found.cosines)
    np.testing.assert_allclose(values(charts["inside-writes"]), found.write_overlaps)
    sizes = found.by_place((found.norms**2).mean(1)) / found.by_place(found.weights)
    np.testing.assert_allclose(values(charts["inside-sizes"]), sizes**0.5)
    own = found.by_place(found.own.mean(1)) / found.by_place((found.norms**2).mean(1))
    np.testing.assert_allclose(values(charts["inside-differences"]), own)
    assert values(charts["inside-agents"]).shape == (4, 2 * DEPTH)
    words = page.text
    assert "What agents' adapters change in the base after generation 7" in words
    assert "Movement is measured, exactly, since the oldest generation on disk" in words
    assert "populora report RUN --ablate-blocks 6" in words
    assert "relative to the base's weights" not in words
    for number in range(4):
        assert f"{found.total_norms[number]:.3g}" in words
    assert f"Of the agents' updates {found.common:.0%} is common to all" in words


def test_an_ablation_is_shown_with_sizes_beside_the_base(folder):
    own = AblatedAgent("", (True,) * 8, ((True,) * 8, (False,) * 8))
    measured = Ablation(
        7, ((0, 2), (3, 5)), (False,) * 8, {"agent_1": own}, dict.fromkeys(NAMES, 2.0)
    )
    file = ablation_file(folder, 7)
    file.parent.mkdir()
    file.write_text(ablation_text(measured))
    page = page_of(folder)
    chart = page.charts["inside-ablation"]
    assert chart["data"][0]["x"] == ["0 to 2", "3 to 5", "all"]
    assert "Switching off layers 3 to 5 alone costs most" in page.text
    assert "sizes are relative to the base's weights" in page.text
    assert "--ablate-blocks" not in page.text
    found = measure(read_adapters(SavedRun(folder).adapters_in(7)))
    sizes = found.by_place((found.norms**2).mean(1)) ** 0.5 / 2
    np.testing.assert_allclose(values(page.charts["inside-sizes"]), sizes)


def test_one_agent_is_compared_with_nobody(tmp_path):
    folder = write_run(tmp_path / "run", generations=2, agents=3)
    write_adapters(folder, 1, [factors(0)])
    assert set(inside_of(page_of(folder))) == {"inside-sizes", "inside-agents", "inside-ranks"}


@pytest.mark.parametrize("zero", [0, 1])
def test_agents_that_are_equal_or_zero(tmp_path, zero):
    folder = write_run(tmp_path / "run", generations=2, agents=3)
    own = {name: (A, B * 0) if zero else (A, B) for name, (A, B) in factors(0).items()}
    write_adapters(folder, 1, [own] * 3)
    words = page_of(folder).text
    said = "All updates are zero" if zero else "Most alike are agent_0 and agent_1 (cosine 1.00)"
    assert said in words


def test_layers_that_lie_in_no_block(tmp_path):
    folder = write_run(tmp_path / "run", generations=2, agents=3)
    write_adapters(folder, 1, [factors(seed, ["q_proj", "v_proj"]) for seed in range(3)])
    assert set(inside_of(page_of(folder))) == {
        "inside-cosines", "inside-reads", "inside-writes", "inside-ranks"
    }  # fmt: skip


def test_movement_over_generations_of_a_run_that_recorded_it(tmp_path):
    manager = make(tmp_path / "run", config(evolve_every=2))
    manager.run(4)
    manager.close()
    page = page_of(tmp_path / "run")
    drift = page.charts["inside-drift"]["data"]
    assert [line["name"] for line in drift] == [f"agent_{i}" for i in range(4)]
    ended = [line for line in drift if None in line["y"]]
    assert len(ended) == 2  # of those who were replaced, once each
    assert "products with 128 pairs of random vectors" in page.text
    assert "Update norm" not in page.text  # which the curves leave to this section


def test_names_in_adapters_are_only_text(tmp_path):
    folder = write_run(tmp_path / "run", generations=2, agents=3)
    names = [f"model.layers.{i}.<img src=x onerror=alert(1)>" for i in range(3)]
    write_adapters(folder, 1, [factors(seed, names) for seed in range(3)])
    page = page_of(folder)
    assert not page.all("img")
    assert "<img" not in json.dumps(inside_of(page))


@pytest.mark.slow
def test_only_adapters_need_torch(folder):
    code = (
        "import sys; from evolution.cli import main; "
        f"main(['report', {str(folder)!r}]); print({{'torch', 'transformers'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "{'torch'}"


@pytest.mark.slow
@needs_browser
def test_a_browser_draws_the_section_without_complaint(folder, tmp_path):
    charts = page_of(folder).charts
    page, complaints = browse(folder / "report.html", tmp_path / "profile")
    assert complaints == []
    drawn = [a["id"] for a in page.all("div") if "js-plotly-plot" in a.get("class", "")]
    assert sorted(drawn) == sorted(charts)


def test_layers_and_generations_are_whole_numbers(folder):
    rows = [json.loads(line) for line in (folder / "history.jsonl").open()]
    text = "".join(json.dumps({**row, "drift": 0.1}) + "\n" for row in rows)
    (folder / "history.jsonl").write_text(text)
    run = read_run_data(folder)
    assert drift_chart(run, run.agents).figure.layout.xaxis.dtick == 1
    charts = inside_of(page_of(folder))
    for key in ("inside-sizes", "inside-differences"):
        assert charts[key]["layout"]["xaxis"]["dtick"] == 1, key
