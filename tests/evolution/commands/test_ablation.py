"""``populora report --ablate-blocks``: what is switched off, on which problems, and once only."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from evolution.cli import main
from evolution.commands import ablation as command
from evolution.errors import UsageError
from evolution.reporting.anatomy.ablation import read_ablation
from evolution.run_problems import held_out_problems
from evolution.runs.saved_run import SavedRun
from populora_env.problems import load_problems
from populora_env.records import Grade, GradeStatus

SETTINGS = (
    "--size", "3", "--rank", "2", "--generations", "1", "--problems-per-generation", "2",
    "--judged-problems", "0", "--solve-tokens", "4", "--spread", "0.5", "--held-out", "6",
    "--problems", "procedural:chain_sum(max_terms=2,max_digits=1)", "--learner", "none",
    "--last-trial", "4",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, model_folder):
    folder = tmp_path_factory.mktemp("ablation") / "run"
    assert main(["evolve", "--model", model_folder, "--out", str(folder), *SETTINGS]) == 0
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def measured(monkeypatch):
    """What was measured: the policy's factors then, problems, agents. Marks are made up."""
    calls = []

    def evaluate(policy, problems, *, agents, **_):
        lora = policy.population.lora
        factors = [(f.name, f.A.clone(), f.B.clone()) for f in lora.layers()]
        calls.append(SimpleNamespace(factors=factors, problems=problems, agents=agents))
        right = {name: number for number, name in enumerate(agents)}
        places = range(len(problems))
        return SimpleNamespace(scores={
            name: SimpleNamespace(grades=[
                Grade(place >= right[name], "7", GradeStatus.CORRECT) for place in places
            ])
            for name in agents
        })  # fmt: skip

    monkeypatch.setattr(command, "evaluate", evaluate)
    return calls


def report(run, *more):
    return main(["report", str(run), *map(str, more)])


def test_each_copy_lacks_one_block_and_nothing_else(run, measured):
    assert report(run, "--ablate-blocks", 2, "--ablate-problems", 5) == 0
    (call,) = measured
    assert call.agents == ("base", "agent_0", "agent_1", "agent_2")
    for name, A, B in call.factors:
        layer = int(name.split(".")[2])
        assert B[0].abs().sum() > 0
        for copy in (1, 2):
            torch.testing.assert_close(A[copy], A[0])
            torch.testing.assert_close(B[copy], B[0] * (layer != copy - 1))
    found = read_ablation(SavedRun(run))
    assert found.blocks == ((0, 0), (1, 1))
    best = SavedRun(run).best_agent
    assert list(found.agents) == [best]
    assert found.base == (True,) * 5
    assert found.agents[best].whole == (False, True, True, True, True)
    assert found.agents[best].without[1] == (False, False, False, True, True)
    assert set(found.weight_norms) == {name for name, _, _ in call.factors}
    assert "agent" in (run / "report.html").read_text()


def test_the_held_out_problems_are_never_asked(run, measured):
    report(run, "--ablate-blocks", 1, "--ablate-problems", 40)
    config = SavedRun(run).config
    held_out = {problem.id for problem in held_out_problems(config)}
    asked = [problem.id for problem in measured[0].problems]
    assert len(set(asked)) == len(asked) == 40
    assert not held_out & set(asked)
    test = load_problems(config.problems, split="test", seed=config.seed)
    assert not {p.id for p in test.distinct(40)} & set(asked)


def test_what_is_known_is_not_measured_again(run, measured):
    asked = ("--ablate-blocks", 2, "--ablate-problems", 5)
    for agents in ("agent_1", "agent_1", "agent_2"):
        assert report(run, *asked, "--ablate-agents", agents) == 0
    assert [call.agents[0] for call in measured] == ["base", "agent_0"]
    assert list(read_ablation(SavedRun(run)).agents) == ["agent_1", "agent_2"]
    assert report(run, *asked, "--ablate-agents", "all") == 0
    assert len(measured) == 3
    assert report(run, "--ablate-blocks", 1, "--ablate-problems", 5) == 0
    assert len(measured) == 4
    assert len(read_ablation(SavedRun(run)).agents) == 1
    file = command.ablation_file(run, 0)
    data = json.loads(file.read_text())
    for own in data["agents"].values():
        own["adapter"] = "another"
    file.write_text(json.dumps(data))
    assert report(run, "--ablate-blocks", 1, "--ablate-problems", 5) == 0
    assert len(measured) == 5


def test_the_run_itself_stays_as_it_is(run, measured):
    def files():
        return {
            f: f.read_bytes() for f in run.rglob("*") if f.is_file() and "ablation" not in str(f)
        }

    before = files()
    report(run, "--ablate-blocks", 1, "--out", run.parent / "page.html")
    assert measured
    assert files() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ablate-blocks", 3), "ablate_blocks: got 3, expected at most 2, the layers of"),
        (("--ablate-blocks", 1, "--ablate-agents", "agent_9"),
         "ablate_agents: got agent_9, expected all, best, or some of those who solve: agent_0, "),
        (("--ablate-blocks", 1, "--ablate-problems", 0), "ablate_problems: got 0, expected"),
        (("--ablate-blocks", -1), "ablate_blocks: got -1, expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_line(run, capsys, arguments, said):
    assert report(run, *arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("populora")]
    assert said in line


@pytest.mark.parametrize(
    ("blocks", "parts"),
    [(1, [[0, 1, 2, 4, 5]]), (2, [[0, 1], [2, 4, 5]]), (5, [[0], [1], [2], [4], [5]])],
)
def test_layers_are_cut_into_contiguous_blocks(blocks, parts):
    layers = [f"model.layers.{i}.{m}" for i in (5, 0, 1, 2, 4) for m in ("q", "v")] + ["lm_head"]
    assert command.cut(layers, blocks) == parts
    with pytest.raises(UsageError, match="at most 5"):
        command.cut(layers, 6)


@pytest.mark.slow
def test_without_all_layers_an_agent_is_the_base(run):
    assert report(run, "--ablate-blocks", 1, "--ablate-problems", 8) == 0
    found = read_ablation(SavedRun(run))
    (own,) = found.agents.values()
    assert own.without == (found.base,)
