from __future__ import annotations

import json
import math

import pytest
import tomli_w
import torch

from agents.peft_io import write_adapter
from agents.population import LoraPopulation
from evolution.cli import main
from evolution.commands.bench import command as bench
from evolution.commands.bench.tasks import load_tasks, read_tasks, split_specs
from evolution.commands.participants import load_participants, unique_names, vote_weights
from evolution.errors import UsageError
from evolution.operators import mutation_weights as mutation
from evolution.runs.checkpoint import RunFolder
from evolution.runs.saved_run import read_run
from evolution.runs.settings_files import presets, read_preset
from tests.conftest import make_tiny_base

SUMS = "procedural:chain_sum(max_terms=2,max_digits=1)"
FAST = ["--max-new-tokens", "4", "--limit", "3"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, and a run of three agents whose last generation is number 10."""
    folder = tmp_path_factory.mktemp("bench")
    base = make_tiny_base()
    base.model.save_pretrained(folder / "model")
    base.tokenizer.save_pretrained(folder / "model")
    population = LoraPopulation(base, 3, 2)
    mutation.spread(population.lora, 0.5, 1)
    run = RunFolder(folder / "run")
    for generation in (9, 10):
        run.save(generation, population, {}, {}, keep=2)
    population.lora.detach()
    config = {
        "model": str(folder / "model"), "size": 3, "rank": 2, "problems": SUMS, "seed": 4,
        "solve_tokens": 5,
    }  # fmt: skip
    run.write("run.toml", tomli_w.dumps({"config": config}))
    run.append(
        "history.jsonl",
        (
            {"generation": g, "agent": f"agent_{i}", "rating": 25.0 + (g - 9) * i}
            for g in (9, 10)
            for i in range(3)
        ),
    )
    return folder


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def measure(saved, capsys, out, *arguments, spec=SUMS):
    words = ["bench", spec, "--model", str(saved / "model"), "--out", str(out), *FAST, *arguments]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert all(len(line) <= 80 for line in captured.out.splitlines() if line[:1] in "│┃┏└")
    return captured.out


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_base_alone(saved, capsys, tmp_path):
    said = measure(saved, capsys, tmp_path / "out")
    assert "3 problems, arena-v1, greedy" in said
    assert said.startswith(f"loading {SUMS}\n")
    assert "majority vote" not in said
    assert "the best is chosen" not in said
    (result,) = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert result["problems"] == 3
    assert set(result["rules"]["default"]["accuracy"]) == {"base"}
    head, *rows = rows_of(tmp_path / "out" / "replies.jsonl")
    assert head["settings"]["temperature"] == 0.0
    problems = rows_of(tmp_path / "out" / "problems.jsonl")
    assert [row["problem"] for row in rows] == [row["problem"] for row in problems]


def test_adapters_beside_the_base_and_going_on(saved, capsys, tmp_path, monkeypatch):
    folders = [str(saved / "run" / "generation_0010" / "adapters" / f"agent_{i}") for i in (0, 2)]
    out = tmp_path / "out"
    said = measure(saved, capsys, out, "--adapters", *folders)
    for name in ("base", "agent_0", "agent_2", "mean", "best (", "majority vote", "pass@1"):
        assert name in said
    assert "vote by rating" not in said
    assert "agreement between two agents" in said
    before = (out / "replies.jsonl").read_bytes()
    first = (out / "results.json").read_text()
    monkeypatch.setattr(LoraPopulation, "act", lambda *_, **__: pytest.fail("asked again"))
    again = measure(saved, capsys, out, "--adapters", *folders)
    assert "9 replies known" in again
    assert (out / "replies.jsonl").read_bytes() == before
    assert (out / "results.json").read_text() == first


def test_interrupted_says_how_to_go_on(saved, capsys, tmp_path, monkeypatch):
    generate, calls = LoraPopulation.generate, []

    def once(*arguments, **options):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return generate(*arguments, **options)

    monkeypatch.setattr(LoraPopulation, "generate", once)
    words = ["bench", SUMS, "--model", str(saved / "model"), *FAST, "--max-rows", "1",
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 130
    said = " ".join(capsys.readouterr().out.split())
    assert "Interrupted; 2 replies are kept." in said
    assert f"--out {tmp_path / 'out'}" in said.replace(" --max", "--max")
    monkeypatch.setattr(LoraPopulation, "generate", generate)
    assert main(words) == 0
    assert len(rows_of(tmp_path / "out" / "replies.jsonl")) == 4


def test_a_run_uses_its_own_settings_and_ratings(saved, capsys, tmp_path):
    assert main(["bench", "--run", str(saved / "run"), "--limit", "3"]) == 0
    said = capsys.readouterr().out
    assert "vote by rating" in said
    out = saved / "run" / "bench" / "generation_0010"
    data = json.loads((out / "results.json").read_text())
    assert data["options"]["model"] == str(saved / "model")
    assert data["options"]["seed"] == 4
    (result,) = data["results"]
    assert result["task"] == SUMS
    assert result["sampling"]["max_new_tokens"] == 5
    assert not result["outside"]
    weights = [entry["weight"] for entry in result["entrants"]]
    assert weights[0] is None
    assert weights[3] == 1.0
    assert weights[1] < weights[2] < 1.0
    assert result["change"]["change"] == pytest.approx(
        result["change"]["mean"] - result["change"]["base"]
    )


def test_a_run_and_an_adapter_with_the_same_name(saved, capsys, tmp_path):
    folder = saved / "run" / "generation_0009" / "adapters" / "agent_1"
    words = ["bench", "--run", str(saved / "run"), "--adapters", str(folder), *FAST]
    assert main([*words, "--out", str(tmp_path)]) == 0
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    names = [entry["name"] for entry in result["entrants"]]
    assert names == ["base", "agent_0", "agent_1", "agent_2", str(folder)]
    assert result["rules"]["default"]["weighted_vote"] is None  # it has no rating


@pytest.mark.slow
def test_forgetting(saved, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("POPULORA_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["bench", "--run", str(saved / "run"), "--forgetting", "--out", str(tmp_path / "out")]
    assert main([*words, *FAST]) == 0
    said = capsys.readouterr().out
    assert "What the run changed" in said
    assert "left out: gsm8k (" in said
    assert all(len(line) <= 80 for line in said.splitlines() if line[:1] in "│┃┏└")
    data = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert [result["outside"] for result in data] == [False] + [True] * (len(data) - 1)
    assert len(data) == 5
    assert {result["prompt"] for result in data} == {"arena-v1"}
    words = ["bench", "procedural:lcm", "--run", str(saved / "run"), "--out", str(tmp_path / "out")]
    assert main([*words, *FAST]) == 0
    again = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert again[1:] == data  # what was measured before stays
    rows = [json.loads(line) for line in (tmp_path / "out" / "problems.jsonl").open()]
    assert {row["task"] for row in rows} == {result["task"] for result in again}


def test_sampled_and_several_samples(saved, capsys, tmp_path):
    said = measure(saved, capsys, tmp_path, "--temperature", "1", "--samples", "2")
    assert "T=1, 2 samples" in said
    assert "pass@1" in said
    assert len(rows_of(tmp_path / "replies.jsonl")) == 7


def test_prompts_of_their_own(saved, capsys, tmp_path):
    spec = f"{SUMS}@chat-v1,procedural:products(max_digits=1)"
    measure(saved, capsys, tmp_path, spec=spec)
    data = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [result["prompt"] for result in data] == ["chat-v1", "arena-v1"]


def test_few_shot_prompts_need_no_chat_template(saved, capsys, tmp_path, monkeypatch):
    for part, count in (("train", 12), ("test", 3)):
        rows = (
            {"question": f"{part} {n}?", "answer": f"It is <<{n}={n}>>.\n#### {n}"}
            for n in range(count)
        )
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"gsm8k_{part}.jsonl").write_text(text)
    monkeypatch.setenv("POPULORA_DATA", str(tmp_path))
    said = measure(
        saved, capsys, tmp_path / "out", "--prompt", "gsm8k-8shot-v1", spec="gsm8k"
    )  # fmt: skip
    assert "gsm8k flex" in said
    table = [line for line in said.splitlines() if line[:1] in "┏┃│└"]
    assert all(len(line) <= 80 for line in table)
    assert any("base" in line and "0.000" in line for line in table)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit", "-1"], "limit: got -1, expected an integer >= 0"),
        (["--forgetting"], "forgetting: needs a run"),
        ([SUMS, "--no-base"], "base: without it nobody is left"),
        ([SUMS, "--samples", "2"], "samples: got 2 at temperature 0"),
        ([SUMS, "--temperature", "-1"], "temperature: got -1.0"),
        ([SUMS, "--prompt", "best"], "prompt: got 'best', expected one of arena-v1"),
        (["--tasks", "gsm8k,,math"], "tasks: got 'gsm8k,,math'"),
        (["--tasks", f"{SUMS},{SUMS}"], "is there twice"),
        (["--tasks", f"{SUMS}@best"], "prompt: got 'best'"),
        (["--tasks", "procedural:chain_sun"], "chain_sum"),
        (["--run", "/no/run"], "run: /no/run is no run folder"),
        (["--adapters", "/no/adapter"], "adapters: /no/adapter is neither"),
        ([SUMS, "--model", "/no/such/folder"], "neither an existing folder"),
        ([SUMS, "--out", "/proc/nowhere"], "/proc/nowhere/replies.jsonl cannot be used"),
        ([SUMS, "--split", "dev"], "dev"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("populora: error: ")
    assert said in line


def test_other_settings_in_the_same_folder_are_refused(saved, capsys, tmp_path):
    measure(saved, capsys, tmp_path)
    common = [
        "bench",
        SUMS,
        "--model",
        str(saved / "model"),
        "--out",
        str(tmp_path),
        "--limit",
        "3",
    ]
    for more, said in (
        (["--max-new-tokens", "4", "--temperature", "1"], "temperature: got 1.0, but"),
        (["--max-new-tokens", "5"], "other max_new_tokens (4, now 5)"),
    ):
        assert main([*common, *more]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_one_line(saved, capsys, tmp_path):
    words = ["bench", SUMS, "--model", str(saved / "model"), "--out", str(tmp_path)]
    assert main([*words, "--max-new-tokens", "4000"]) == 2
    assert "exceed the model's context of 2048" in capsys.readouterr().err


@pytest.mark.slow
def test_adapters_that_do_not_fit_are_one_line(saved, capsys, tmp_path):
    folder = tmp_path / "adapter"
    pair = torch.ones(2, 48), torch.ones(48, 2)
    write_adapter(folder, {"nowhere.q_proj": pair}, alpha=1, dropout=0, base="")
    words = ["bench", SUMS, "--model", str(saved / "model"), "--adapters", str(folder),
             "--out", str(tmp_path / "out")]  # fmt: skip
    for config, said in (
        ("{", "not a readable PEFT adapter folder (Expecting property name"),
        ('{"r": 1000000000, "target_modules": ["q_proj"]}', "peft_type is None, expected 'LORA'"),
        ('{"peft_type": "LORA", "r": 1000000000, "lora_alpha": 1}', "has rank 2, but"),
        ('{"peft_type": "LORA", "r": 2, "lora_alpha": 1}', "nowhere.q_proj has no place"),
    ):
        (folder / "adapter_config.json").write_text(config)
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_adapters_of_different_layers_and_ranks_play_beside_each_other(saved, capsys, tmp_path):
    """As PEFT plays them, whatever their settings call their layers."""
    base = make_tiny_base()
    width = base.model.config.hidden_size
    layers = "model.layers.{}.self_attn.{}".format
    for name, names, rank in (
        ("one", (layers(0, "q_proj"), layers(1, "o_proj")), 2),
        ("two", (layers(1, "q_proj"),), 5),
    ):
        factors = {n: (torch.ones(rank, width), torch.ones(width, rank) / 9) for n in names}
        write_adapter(tmp_path / name, factors, alpha=rank, dropout=0, base="")
        path = tmp_path / name / "adapter_config.json"
        changed = {"r": 1, "rank_pattern": dict.fromkeys(names, rank), "target_modules": "regex.*"}
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    folders = {name: tmp_path / name for name in ("one", "two")}
    population, participants = load_participants(base, folders)
    held = {layer.name: layer for layer in population.lora.layers()}
    assert [participant.name for participant in participants] == ["base", "one", "two"]
    assert population.lora.ranks.tolist() == [2, 5]
    assert {n: held[n].B.flatten(1).any(1).tolist() for n in held} == {
        layers(0, "q_proj"): [True, False],
        layers(1, "q_proj"): [False, True],
        layers(1, "o_proj"): [True, False],
    }


def test_specs_are_split_outside_parentheses():
    assert split_specs(f"gsm8k, {SUMS},math(level=[1,2])") == ["gsm8k", SUMS, "math(level=[1,2])"]
    for text in ("", "a,", "a(,", "a),b"):
        with pytest.raises(UsageError, match="tasks: got"):
            split_specs(text)


def test_what_counts_as_outside():
    trained = "procedural:chain_sum(max_terms=2)+2*gcd"
    named = "procedural:chain_sum(max_terms=9),procedural:lcm,gsm8k"
    tasks = read_tasks(named, "arena-v1", trained=trained, forgetting=True)
    assert [(task.spec, task.outside, task.optional) for task in tasks[:3]] == [
        ("procedural:chain_sum(max_terms=9)", False, False),
        ("procedural:lcm", True, False),
        ("gsm8k", True, False),
    ]
    others = {task.spec for task in tasks[3:]}
    assert "procedural:leg_counting" in others
    assert "procedural:gcd" not in others
    assert all(task.outside and task.optional for task in tasks[3:])
    (math500,) = read_tasks("math500", "chat-v1", trained="math")
    assert not math500.outside
    few = read_tasks("gsm8k", "gsm8k-8shot-v1", trained="gsm8k", forgetting=True)
    assert {task.preset.name for task in few[1:]} == {"chat-v1"}
    assert not any(task.outside for task in read_tasks("gsm8k", "arena-v1"))


@pytest.mark.parametrize(
    ("trained", "inside"),
    [
        ("self-play:levels(chain_sum)", "procedural:chain_sum"),
        ("curriculum:learnability(gcd+products)", "procedural:gcd"),
        ("self-play:expressions", None),
    ],
)
def test_runs_of_self_play_and_curricula_are_measured(trained, inside):
    found = read_tasks("procedural:lcm", "arena-v1", trained=trained, forgetting=True)
    outside = {task.spec for task in found if task.outside}
    assert {"procedural:lcm", "procedural:leg_counting"} <= outside
    if inside is not None:
        (task,) = read_tasks(inside, "arena-v1", trained=trained)
        assert not task.outside


@pytest.mark.slow
def test_generators_have_an_end_here():
    (task,) = read_tasks(SUMS, "arena-v1")
    loaded = load_tasks([task], split="test", seed=0, limit=5, left_out=pytest.fail)
    assert len({problem.id for problem in loaded[SUMS]}) == 5
    loaded = load_tasks([task], split="test", seed=0, limit=0, left_out=pytest.fail)
    assert 80 < len(loaded[SUMS]) < 128  # all there are
    (task,) = read_tasks("procedural:gcd", "arena-v1")
    loaded = load_tasks([task], split="test", seed=0, limit=0, left_out=pytest.fail)
    assert len(loaded["procedural:gcd"]) == 128


def test_weights_are_odds_against_the_best():
    weights = vote_weights({"a": 25.0, "b": 25.0, "c": 30.0})
    assert weights["c"] == 1.0
    assert weights["a"] == weights["b"] == pytest.approx(math.exp(-5 / (25 / 6 * math.sqrt(2))))
    assert vote_weights({}) == {}


def test_short_names_tell_folders_apart(tmp_path):
    first, second = tmp_path / "x" / "best", tmp_path / "y" / "best"
    assert list(unique_names([first, tmp_path / "z"])) == ["best", "z"]
    assert list(unique_names([first, second])) == ["x/best", "y/best"]
    assert list(unique_names([tmp_path / "base"])) != ["base"]
    assert unique_names([]) == {}
    with pytest.raises(UsageError, match="given twice"):
        unique_names([first, first])


def test_a_damaged_run_is_one_line(saved, tmp_path):
    (tmp_path / "run.toml").write_text("[config")
    with pytest.raises(UsageError, match="is damaged"):
        read_run(tmp_path)
    (tmp_path / "run.toml").write_text("[config]\nsize = 3\n")
    with pytest.raises(UsageError, match="holds no complete generation"):
        read_run(tmp_path)
    (tmp_path / "generation_0000").mkdir()
    (tmp_path / "history.jsonl").write_text("nonsense\n")
    with pytest.raises(UsageError, match=r"history.jsonl, line 1 is damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize(("name", "size"), [("llama2-7b", 8), ("mistral-7b", 8), ("qwen2.5-7b", 6)])
def test_presets_for_large_models(name, size):
    assert name in presets()
    config = read_preset(name)
    assert (config.size, config.rank, config.dtype) == (size, 16, "bfloat16")
    assert config.problems == "gsm8k"


def test_help_names_the_prompts():
    from populora_env.problems.fewshot import PRESETS

    with open(bench.__file__, encoding="utf-8") as file:
        text = file.read()
    assert all(name in text for name in PRESETS)


def test_the_same_command_goes_on_without_out(saved, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["bench", SUMS, "--model", str(saved / "model"), *FAST]
    assert main(words) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    whole = (folder / "replies.jsonl").read_bytes()
    (folder / "replies.jsonl").write_bytes(whole[:-30])  # as after a kill while it wrote
    capsys.readouterr()
    assert main([*words, "--max-rows", "2"]) == 0
    assert "2 replies known" in capsys.readouterr().out
    assert list((tmp_path / "runs").iterdir()) == [folder]
    assert (folder / "replies.jsonl").read_bytes() == whole
    assert main([*words, "--seed", "1"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_all_of_a_file_is_asked_unless_it_was_trained_on(tmp_path):
    lines = [json.dumps({"problem": f"{n} + 1 =", "answer": str(n + 1)}) for n in range(10)]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(lines) + "\n")

    def asked(split="auto", **known):
        said = []
        tasks = read_tasks(str(file), "arena-v1", **known)
        loaded = load_tasks(tasks, split=split, seed=0, limit=0, left_out=said.append)
        (line,) = said
        return len(loaded[str(file)]), line.removeprefix(f"{file}: ")

    whole = "all 10 problems of the file are asked; --split test takes"
    assert asked()[0] == 10
    assert asked()[1].startswith(whole)
    assert asked(trained="gsm8k")[0] == 10
    half, said = asked(trained=str(tmp_path / "." / "mine.jsonl"))
    assert 0 < half < 10
    assert (
        said == f"all {half} problems of its test part are asked; --split all asks the whole file"
    )
    assert asked(known=["gsm8k", str(file)])[0] == half
    assert asked("test")[0] == half
    assert asked(None, trained=str(file))[0] == 10
    two = tmp_path / "two.jsonl"
    two.write_text("\n".join(lines[:2]) + "\n")
    tasks = read_tasks(str(two), "arena-v1")
    assert len(load_tasks(tasks, split="auto", seed=0, limit=0, left_out=print)[str(two)]) == 2
