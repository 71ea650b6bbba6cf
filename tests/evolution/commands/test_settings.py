"""Settings of adapters and of the base: flags, TOML files, and what they do to a run."""

from __future__ import annotations

import json
import re
import tomllib
from types import SimpleNamespace

import pytest
import torch

import agents
import evolution
from agents.loading.int8 import can_multiply_int8
from agents.loading.linear import MatmulPrecision, resolve
from agents.loading.models import DTYPES
from agents.machine.processor import onednn
from agents.population import LoraPopulation
from evolution import learning
from evolution.cli import main
from evolution.commands import help_text
from evolution.commands.evolve import command as evolve
from evolution.commands.evolve.options import read_options
from evolution.config import EvolutionConfig, RunConfig
from evolution.errors import CheckpointError, ConfigError, UsageError
from evolution.run_population import newborn
from evolution.runs.changes import find_changes, plain_settings
from evolution.runs.checkpoint import RunFolder
from evolution.runs.settings_files import from_mapping, read_preset, read_toml
from tests.conftest import make_tiny_base
from tests.evolution.test_cli import QUICK, one_line_error

FLAGS = {
    "alpha": ("5", 5.0),
    "targets": ("q_proj+v_proj", "q_proj+v_proj"),
    "dropout": ("0.1", 0.1),
    "adapter-dtype": ("bfloat16", "bfloat16"),
    "gradient-checkpointing": ("True", True),
    "tokens-per-batch": ("64", 64),
    "top-p": ("0.5", 0.5),
    "load-in-4bit": ("True", True),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_each_is_a_flag_and_a_field(tmp_path, flag):
    text, value = FLAGS[flag]
    field = flag.replace("-", "_")
    assert getattr(read_options([f"--{flag}", text]), field) == value
    file = tmp_path / "run.toml"
    file.write_text(f"{field} = {json.dumps(value)}\n")
    assert getattr(read_toml(file), field) == value
    assert getattr(read_options(["--config", str(file)]), field) == value
    assert getattr(RunConfig(), field) != value


def test_several_targets_may_be_a_list_in_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('targets = ["q_proj", "v_proj"]\n')
    assert read_toml(file).targets == "q_proj+v_proj"


def test_the_population_is_the_one_that_was_asked_for():
    options = RunConfig(
        alpha=5.0, targets="q_proj+v_proj", dropout=0.1, adapter_dtype="bfloat16", rank=3, size=4,
        gradient_checkpointing=True, top_p=0.5, tokens_per_batch=64,
    )  # fmt: skip
    population = newborn(make_tiny_base(), options)
    lora = population.lora
    assert {layer.name.rpartition(".")[2] for layer in lora.layers()} == {"q_proj", "v_proj"}
    assert next(lora.layers()).A.dtype == torch.bfloat16
    assert (lora.alpha.tolist(), lora.dropout) == ([5.0] * 4, (0.1,) * 4)
    assert (population.top_p, lora.checkpointed) == (0.5, True)
    learner = learning.make_learner(population, options, options.resolved(4))
    assert learner.config.tokens_per_batch == 64
    plain = newborn(make_tiny_base(), RunConfig(size=4))
    assert (plain.lora.alpha.tolist(), plain.top_p) == ([16.0] * 4, 1.0)
    assert not plain.lora.checkpointed


def test_four_bits_reach_the_loader(monkeypatch, tmp_path):
    seen = []

    def load(name, **options):
        seen.append(options["load_in_4bit"])
        raise UsageError("stop here")

    monkeypatch.setattr("evolution.commands.evolve.engine.load_base", load)
    for flag in ("True", "False"):
        with pytest.raises(UsageError, match="stop here"):
            evolve.main(["--load-in-4bit", flag, "--out", str(tmp_path / flag)])
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = 7", "model: got 7, expected text"),
        ("model = [1]", r"model: got \[1\], expected text"),
        ("dtype = true", "dtype: got True, expected text"),
        ("out = 1.5", r"out: got 1\.5, expected text"),
        ("learner = [1]", r"learner: got \[1\], expected text"),
        ("learner = {a = 1}", "learner: got {'a': 1}, expected text"),
        ("evaluation = 1", "evaluation: got 1, expected text"),
        ("targets = 3", "targets: got 3, expected text"),
        ('revise = "False"', "revise: got 'False', expected true or false"),
        ("load_in_4bit = 1", "load_in_4bit: got 1, expected true or false"),
        ('size = "8"', "size: got '8', expected an integer"),
        ("rank = 2.0", r"rank: got 2\.0, expected an integer"),
        ('max_minutes = "x"', "max_minutes: got 'x', expected a number"),
        ('learning_rate = "x"', "learning_rate: got 'x', expected a number"),
        ("alpha = 0", "alpha: got 0, expected a number above 0"),
        ("alpha = -inf", "alpha: got -inf, expected a number above 0"),
        ("alpha = nan", "alpha: got nan, expected a number above 0"),
        ('alpha = "16"', "alpha: got '16', expected a number"),
        ("dropout = 1.0", r"dropout: got 1\.0, expected a number from 0, below 1"),
        ("dropout = true", "dropout: got True, expected a number"),
        ("top_p = 0", "top_p: got 0, expected a number above 0, up to 1"),
        ("top_p = 1.5", r"top_p: got 1\.5, expected a number above 0, up to 1"),
        ('adapter_dtype = "int8"', "adapter_dtype: got 'int8', expected one of float32"),
        ("tokens_per_batch = 0", "tokens_per_batch: got 0, expected an integer >= 1"),
    ],
)
def test_a_wrong_value_in_a_file_is_one_line(capsys, tmp_path, text, said):
    with pytest.raises(ConfigError, match=f"^{said}"):
        from_mapping(tomllib.loads(text), "x")
    file = tmp_path / "run.toml"
    file.write_text(text)
    one_line_error(capsys, ["evolve", "--config", str(file)])


def test_a_manager_alone_knows_switches_and_texts_as_well():
    with pytest.raises(ConfigError, match="revise: got 'False', expected true or false"):
        EvolutionConfig(revise="False")
    with pytest.raises(ConfigError, match="fitness: got None, expected text"):
        EvolutionConfig(fitness=None)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("nope", "targets: 'nope' matches no linear layer"),
        ("q_proj+nope", "targets: 'nope' matches no linear layer .* like 'model.layers.0."),
        ("", "targets: '' matches no linear layer"),
        ("lm_head", "targets: 'lm_head' matches no linear layer"),
    ],
)
def test_targets_that_match_nothing_are_said(targets, said):
    with pytest.raises(UsageError, match=said):
        newborn(make_tiny_base(), RunConfig(targets=targets))


def test_a_model_by_number_is_a_name_on_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = one_line_error(capsys, ["evolve", "--model", "7"])
    assert "model: '7' is neither an existing folder, a .gguf file, nor a hub id" in said


def test_types_are_those_of_the_models():
    for name in DTYPES:
        assert RunConfig(adapter_dtype=name).adapter_dtype == name
    with pytest.raises(ConfigError, match=f"expected one of {', '.join(DTYPES)}$"):
        RunConfig(adapter_dtype="float64")


@pytest.mark.slow
def test_a_run_keeps_them_and_refuses_what_its_past_rests_on(capsys, tmp_path, model_folder):
    out = str(tmp_path / "run")
    flags = ["--alpha", "5", "--targets", "q_proj+v_proj", "--dropout", "0.1", "--top-p", "0.9"]
    flags += ["--tokens-per-batch", "64", "--gradient-checkpointing", "True"]
    flags += ["--adapter-dtype", "float32", "--held-out", "0"]
    assert main(["evolve", "--model", model_folder, *QUICK, *flags, "--out", out]) == 0
    saved = tomllib.loads((tmp_path / "run" / "run.toml").read_text())["config"]
    assert (saved["alpha"], saved["targets"], saved["top_p"]) == (5.0, "q_proj+v_proj", 0.9)
    assert (saved["tokens_per_batch"], saved["gradient_checkpointing"]) == (64, True)
    capsys.readouterr()
    for flag, value in (
        ("alpha", "6"), ("targets", "q_proj"), ("adapter-dtype", "bfloat16"),
        ("load-in-4bit", "True"),
    ):  # fmt: skip
        said = one_line_error(capsys, ["evolve", "--resume", out, f"--{flag}", value])
        assert f"resume: --{flag} cannot change in a saved run" in said
    more = ["--generations", "9", "--max-minutes", "1e-9", "--dropout", "0.2", "--top-p", "1"]
    more += ["--gradient-checkpointing", "False", "--tokens-per-batch", "128"]
    assert main(["evolve", "--resume", out, *more]) == 0
    rows = [json.loads(row) for row in (tmp_path / "run" / "changes.jsonl").open()]
    assert {row["option"] for row in rows} >= {
        "dropout", "top_p", "gradient_checkpointing", "tokens_per_batch"
    }  # fmt: skip


def test_a_run_of_an_older_version_goes_on_with_the_defaults(tmp_path):
    older = {"model": "embedded", "size": 8}
    config = from_mapping(older, "run.toml")
    assert (config.alpha, config.targets, config.top_p) == (None, "all-linear", 1.0)
    defaults = SimpleNamespace(**LoraPopulation.__init__.__kwdefaults__)
    assert (defaults.targets, defaults.top_p, defaults.dropout) == ("all-linear", 1.0, 0.0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"size = " + b"[" * 5000 + b"]" * 5000, "is not valid TOML (maximum recursion depth"),
        (b"size = 3\nsize = 4\n", "is not valid TOML (Cannot overwrite a value"),
        ("size = 3\n".encode("utf-16"), "is not valid TOML ('utf-8' codec can't decode"),
        (b"seed = 1" + b"0" * 5000, "is not valid TOML (Exceeds the limit"),
    ],
)
def test_settings_that_are_no_toml_are_one_line(tmp_path, data, said):
    file = tmp_path / "x.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_toml(file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_overrides_a_preset_and_flags_override_both(tmp_path):
    file = tmp_path / "seven.toml"
    file.write_text("seed = 7\nsize = 5\n")
    for order in (["--preset", "quick", "--config", str(file)],
                  ["--config", str(file), "--preset", "quick"]):  # fmt: skip
        read = read_options([*order, "--seed", "8"])
        assert (read.seed, read.size) == (8, 5)
        assert read.problems_per_generation == read_preset("quick").problems_per_generation
        assert read.problems_per_generation != RunConfig().problems_per_generation


def test_a_home_is_understood_in_paths_that_no_shell_has_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.toml").write_text('out = "~/run"\n')
    assert read_options(["--config=~/x.toml"]).out == str(tmp_path / "run")
    RunFolder("~/made").close()
    assert (tmp_path / "made").is_dir()


def test_settings_are_utf8_whatever_the_terminal_with_or_without_a_mark(tmp_path):
    file = tmp_path / "x.toml"
    file.write_bytes(b"\xef\xbb\xbf" + 'problems = "übung.jsonl"\n'.encode())
    assert read_toml(file).problems == "übung.jsonl"


@pytest.mark.skipif(onednn() is None, reason="this build of PyTorch has no oneDNN")
def test_a_run_says_what_auto_was_and_keeps_to_it(tmp_path, model_folder, capsys, monkeypatch):
    folder = tmp_path / "run"
    words = ["evolve", "--model", model_folder, "--out", str(folder), *QUICK, "--held-out", "0"]
    assert main([*words, "--generations", "1", "--products", "auto"]) == 0
    chosen = resolve("auto").value
    assert f"products in {chosen}, problems" in capsys.readouterr().out
    assert tomllib.loads((folder / "run.toml").read_text())["config"]["products"] == chosen
    goes_on = ["--resume", str(folder)]
    assert read_options([*goes_on, "--products", "auto"]).products == chosen
    other = "bfloat16" if chosen == "float32" else "float32"  # on another machine
    order = [MatmulPrecision.BFLOAT16] if other == "bfloat16" else []
    monkeypatch.setattr("agents.loading.linear._AUTO", order)
    monkeypatch.setattr("agents.loading.linear.has_bfloat16", lambda: True)
    assert read_options(goes_on).products == chosen
    said = one_line_error(capsys, ["evolve", *goes_on, "--products", "auto"])
    assert f"--products cannot change in a saved run ({chosen!r} to {other!r})" in said
    third = "bfloat16" if chosen == "int8" else "int8"
    said = one_line_error(capsys, ["evolve", *goes_on, "--products", third])
    assert f"--products cannot change in a saved run ({chosen!r} to {third!r})" in said


def test_a_run_that_did_not_record_what_auto_was_goes_on():
    before = plain_settings(RunConfig(products=MatmulPrecision.AUTO))
    assert find_changes(before, RunConfig(products=MatmulPrecision.BFLOAT16), 1) == []


@pytest.mark.skipif(not can_multiply_int8(), reason="this processor has no products in int8")
def test_a_run_learns_in_int8_and_goes_on_in_it(tmp_path, model_folder, capsys):
    folder = tmp_path / "run"
    words = ["evolve", "--model", model_folder, "--out", str(folder), *QUICK, "--held-out", "3"]
    assert main([*words, "--generations", "1", "--products", "int8"]) == 0
    assert main(["evolve", "--resume", str(folder), "--generations", "2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("products in int8, problems") == 2
    assert "greedy, int8 (2 generations)" in shown
    assert main(["bench", "--run", str(folder), "--limit", "2", "--max-new-tokens", "4"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "products in int8, 3 adapters" in shown
    assert "greedy, int8" in shown
    (file,) = folder.glob("bench/*/results.json")
    assert json.loads(file.read_text())["precision"] == "int8"
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert re.search(r"products</\w+>\s*<\w+>int8<", page)


@pytest.mark.parametrize("elsewhere", [{"dtype": "bfloat16"}, {"device": "cuda"}])
def test_auto_has_nothing_to_choose_in_other_types_or_on_a_gpu(elsewhere):
    assert resolve("auto", **elsewhere) == "float32"
    assert resolve("bfloat16", **elsewhere) == "bfloat16"


@pytest.mark.parametrize(
    ("setting", "registry"),
    [
        ("advantage", agents.ADVANTAGES),
        ("crossover", evolution.CROSSOVERS),
        ("diversity", evolution.KERNELS),
        ("diversity_bar", evolution.MINIMAL_CRITERIA),
        ("diversity_schedule", evolution.SCHEDULES),
        ("fitness", evolution.DESCRIPTORS),
        ("fitness", evolution.FITNESSES),
        ("fitness_scale", evolution.SCALES),
        ("mutations", evolution.MUTATIONS),
        ("selection", evolution.SELECTIONS),
    ],
)
def test_the_words_of_a_setting_list_all_that_comes_along(setting, registry):
    _, options = help_text.read_options("evolution.config", "EvolutionConfig")
    (words,) = (option.words for option in options if option.name == setting)
    ours = [
        name
        for name, function in registry.items()
        if function.__module__.partition(".")[0] in ("agents", "evolution")
    ]
    assert ours
    listed = re.findall(r"[\w+-]*\w[\w+-]*", words)
    assert set(ours) <= set(listed)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"islands": 10**22}, "islands: got 1"),
        ({"size": 10**22}, "size: got 1"),
        ({"worker_cpus": 10**22}, "worker_cpus: got 1"),
    ],
)
def test_numbers_that_no_machine_holds_are_refused_by_name(settings, said):
    with pytest.raises(ConfigError, match=said) as told:
        RunConfig(**settings).resolved(3)
    assert "\n" not in str(told.value)


def test_a_path_with_nul_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="expected a path without NUL"):
        RunFolder(f"{tmp_path}/a\0b")
