"""docs/expected_curve.py on runs that nobody played, whose curves are known."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from agents.population import BASE
from evolution.commands.evolve.options import run_toml
from evolution.errors import ConfigError, UsageError
from evolution.runs.settings_files import read_preset

SCRIPT = Path(__file__).parents[1] / "docs" / "expected_curve.py"
MADE = runpy.run_path(str(SCRIPT))
SVG = "{http://www.w3.org/2000/svg}"


def make_run(
    folder: Path,
    seed: int,
    *,
    generations: int = 8,
    curve: bool = False,
    ended: bool = True,
    **other,
) -> Path:
    """A run of the quick preset whose accuracy rises from 0.2 + seed / 100 by 0.05 each time."""
    options = replace(read_preset("quick"), seed=seed, products="int8", **other)
    (folder / f"generation_{generations - 1:04}").mkdir(parents=True)
    (folder / "run.toml").write_text(run_toml(options))
    rows, held_out = [], [{"generation": 1, "agent": BASE, "accuracy": 0.01, "problems": 128}]
    for generation in range(generations):
        for agent in range(options.size):
            accuracy = 0.2 + seed / 100 + 0.05 * generation + 0.01 * (agent - 1.5)
            row = {"generation": generation, "agent": f"agent_{agent}", "accuracy": accuracy}
            rows.append(row)
            if generation % 2:
                held_out.append({**row, "accuracy": accuracy / 2, "problems": 128})
    rows.append({"generation": 0, "agent": "agent_9", "accuracy": None})  # who only proposes
    write(folder / "history.jsonl", rows)
    if curve:
        write(folder / "held_out_curve.jsonl", held_out)
    if ended:
        found = {"base": 0.5, "best": 0.7 + seed / 100, "mean": 0.6, "vote": 0.8}
        summary = {"generations": generations, "held_out": found, "seconds": 100.4}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def play(tmp_path: Path, *runs: Path) -> Path:
    MADE["main"](["quick", *map(str, runs), "--out", str(tmp_path / "out")])
    return tmp_path / "out"


def three(tmp_path: Path, **others) -> list[Path]:
    return [make_run(tmp_path / f"run{seed}", seed, **others) for seed in (1, 2, 6)]


def test_the_curve_is_the_mean_and_the_band_holds_all_runs(tmp_path):
    runs = [MADE["read"](run) for run in three(tmp_path)]
    expected = MADE["together"]([run.training for run in runs])
    assert list(expected) == list(range(8))
    last = expected[7]
    assert last.mean == pytest.approx(0.2 + 0.03 + 0.35)
    assert (last.low, last.high) == (pytest.approx(0.2 + 0.01 + 0.35), pytest.approx(0.61))
    assert last.seeds == 3


def test_the_curve_ends_where_the_shortest_run_does(tmp_path):
    runs = [*three(tmp_path)[:2], make_run(tmp_path / "short", 3, generations=5)]
    found = MADE["together"]([MADE["read"](run).training for run in runs])
    assert list(found) == list(range(5))


def test_files_and_their_figures(tmp_path, capsys):
    out = play(tmp_path, *three(tmp_path, curve=True, held_out_every=2))
    names = ["accuracy.svg", "held_out.svg", "table.md"]
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    assert sorted(file.name for file in out.iterdir()) == names
    for name in names[:2]:
        drawn = ElementTree.fromstring((out / name).read_text())
        (band,) = drawn.iter(f"{SVG}polygon")
        (curve,) = drawn.iter(f"{SVG}polyline")
        points = len(curve.get("points").split())
        assert points == (8 if name == "accuracy.svg" else 4)
        assert len(band.get("points").split()) == 2 * points
    text = (out / "table.md").read_text()
    assert text.startswith("# What to expect of the preset quick\n")
    assert "| accuracy in training, generations 0 to 1 | 0.255 | 0.235 to 0.285 |" in text
    assert "| held out, champion | 0.730 | 0.710 to 0.760 |" in text
    assert "| 6 | 8 | 0.500 | 0.760 | 0.600 | 0.800 | 100 |" in text
    assert "products `int8`" in text


def test_the_band_encloses_its_line(tmp_path):
    out = play(tmp_path, *three(tmp_path))
    drawn = ElementTree.fromstring((out / "accuracy.svg").read_text())
    places = [
        [tuple(map(float, point.split(","))) for point in mark.get("points").split()]
        for kind in ("polygon", "polyline")
        for mark in drawn.iter(f"{SVG}{kind}")
    ]
    band, curve = places
    lower, upper = band[: len(curve)], band[len(curve) :][::-1]
    for low, middle, high in zip(lower, curve, upper, strict=True):
        assert low[0] == middle[0] == high[0]
        assert low[1] > middle[1] > high[1]  # pixels count downwards


def test_runs_that_were_not_let_end_have_no_held_out_rows(tmp_path):
    runs = [*three(tmp_path)[:2], make_run(tmp_path / "cut", 3, ended=False)]
    text = (play(tmp_path, *runs) / "table.md").read_text()
    assert "held out, champion" not in text
    assert "| 3 | 8 |  |  |  |  |  |" in text


def test_the_same_runs_give_the_same_bytes(tmp_path):
    runs = three(tmp_path)
    before = {file.name: file.read_bytes() for file in play(tmp_path, *runs).iterdir()}
    assert {file.name: file.read_bytes() for file in play(tmp_path, *runs).iterdir()} == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1}, r"runs: got the seeds \[1, 2, 1\], expected each once"),
        ({"seed": 3, "learning_rate": 0.1}, "differs in learning_rate; expected the preset quick"),
        ({"seed": 3, "generations": 1}, "runs: got 1 generations that all have"),
    ],
)
def test_other_runs_are_refused(tmp_path, other, message):
    runs = [*three(tmp_path)[:2], make_run(tmp_path / "other", **other)]
    with pytest.raises(UsageError, match=message):
        play(tmp_path, *runs)
    assert not (tmp_path / "out").exists()


def test_two_runs_are_too_few_and_folders_have_to_be_runs(tmp_path):
    runs = three(tmp_path)
    with pytest.raises(UsageError, match="got 2, expected at least 3"):
        play(tmp_path, *runs[:2])
    with pytest.raises(UsageError, match=r"runs: .* holds no complete generation"):
        play(tmp_path, *runs, tmp_path / "nowhere")
    (runs[0] / "history.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match=r"history.jsonl, line 1 is damaged"):
        play(tmp_path, *runs)


def test_a_preset_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="preset: got 'quik'"):
        MADE["main"](["quik", *map(str, three(tmp_path)), "--out", str(tmp_path / "out")])
