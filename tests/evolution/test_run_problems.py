"""Prompts that do not fit the model's context."""

import json

import pytest

from agents.policy import Request
from agents.population import LoraPopulation
from evolution import EvolutionConfig, EvolutionManager
from evolution.config import RunConfig
from evolution.errors import ConfigError
from evolution.run_problems import held_out_problems
from populora_env.records import Phase, Problem
from tests.conftest import make_tiny_base

FITS = [Problem.create(f"What is {n}+1?", str(n + 1)) for n in range(4)]
SETTINGS = EvolutionConfig(
    problems_per_generation=2, judged_problems=2, solve_tokens=4, judge_tokens=2,
    evolve_every=1, offspring=1, confirm_problems=2, spread=0.5,
)  # fmt: skip


def make(problems, folder, context):
    base = make_tiny_base()
    base.model.config.max_position_embeddings = context
    return EvolutionManager(LoraPopulation(base, 3, 2), problems, SETTINGS, folder=folder)


def test_a_problem_that_does_not_fit_is_named_before_the_run(tmp_path):
    long = [Problem.create("Add one. " * 400 + str(n), "2") for n in range(2)]
    manager = make([*FITS, *long], tmp_path / "run", 600)
    with pytest.raises(ConfigError) as caught:
        manager.run(1)
    said = str(caught.value)
    assert long[0].id in said
    assert "context of 600" in said
    assert "1 more of 6" in said
    assert "\n" not in said
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_a_run_goes_on_where_judges_prompts_do_not_fit(tmp_path):
    # Attempts fit, a comparison, which quotes two, does not.
    base = make_tiny_base()
    from populora_env.prompts import solve_prompt

    context = max(len(base.chat_ids(solve_prompt(p))) for p in FITS) + 8
    manager = make(FITS, tmp_path / "run", context)
    manager.run(2)
    assert manager.population.stats.overlong > 0
    manager.close()
    again = make(FITS, None, context)
    again.resume(tmp_path / "run")
    assert len(again.run(1)) == 1
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "run" / "transcripts.jsonl").open()]
    asked = [t for row in rows for t in row["turns"] if t["phase"] != "solve"]
    assert asked
    assert all(turn["reply"] == "" for turn in asked)


def test_only_what_does_not_fit_is_left_unanswered():
    base = make_tiny_base()
    population = LoraPopulation(base, 2, 2)
    prompts = ["1+1?", "x " * 2000, "2+2?"]
    base.model.config.max_position_embeddings = 300
    requests = [Request("agent_0", Phase.SOLVE, prompt, 4, 7) for prompt in prompts]
    with pytest.warns(RuntimeWarning, match="do not fit the model's context of 300 tokens"):
        replies = population.act(requests)
    fitting = LoraPopulation(make_tiny_base(), 2, 2).act([requests[0], requests[2]])
    assert [replies[0], replies[2]] == fitting
    assert replies[1] == ""
    assert population.stats.overlong == 1
    assert population.recall(replies[1].reply_id).reply_ids == ()
    with pytest.raises(ValueError, match=r"requests\[1\]: .* exceed the model's context of 300"):
        population.generate(requests)
    with pytest.raises(ValueError, match=r"requests\[1\]"):
        population.decoding(temperature=0.0).act(requests)
    population.decoding(temperature=0.0).act([requests[0]])
    assert population.recall(replies[0].reply_id) is not None  # not the measurement's to forget
    population.forget()
    assert population.recall(replies[0].reply_id) is None


def test_a_file_with_too_few_to_hold_out_says_how_many_it_has(tmp_path):
    rows = "".join(f"What is {n} and 1?,{n + 1}\n" for n in range(40))
    (tmp_path / "own.csv").write_text("question,answer\n" + rows)
    spec = str(tmp_path / "own.csv")
    with pytest.raises(ConfigError, match=r"held_out: got 128, expected at most \d+, wh") as told:
        held_out_problems(RunConfig(problems=spec))
    there = int(str(told.value).partition("at most ")[2].partition(",")[0])
    assert len(held_out_problems(RunConfig(problems=spec, held_out=there))) == there
