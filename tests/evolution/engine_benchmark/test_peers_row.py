"""``populora bench-engine --only peers``: other engines' figures, and the line of one without."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from evolution.cli import main
from evolution.engine_benchmark import command, peers_row
from evolution.engine_benchmark.converted import content_key, converted, folder_name
from evolution.engine_benchmark.cpu_engines import ENGINES, Engine, one_line
from evolution.engine_benchmark.openvino_model import quantised
from evolution.engine_benchmark.peers_row import PRECISIONS, Runner, same_tokens
from evolution.engine_benchmark.rows import decode_greedily
from evolution.engine_benchmark.workbench import EndlessBase
from tests.evolution.engine_benchmark.conftest import SUMS

REAL = all(importlib.util.find_spec(name) for name in ("openvino", "openvino_genai"))


@pytest.fixture
def have(monkeypatch):
    """Let only these engines take part."""

    def only(*engines):
        made = {engine.key: engine for engine in engines}
        for module in (peers_row, command):
            monkeypatch.setattr(module, "ENGINES", made)

    return only


def engine(name, build, precision="float32", packages=(), **more):
    return Engine(name, precision, f"{name} {precision}", packages, build, {"a": "b"}, **more)


def ours(bench):
    base = EndlessBase.of(bench.base)

    def decode(prompts, new_tokens):
        replies = decode_greedily(base, None, prompts, new_tokens - 1, 0)
        return [list(reply.ids) for reply in replies]

    return decode


def run(model_folder, capsys, tmp_path, *more):
    file = tmp_path / "engine.json"
    arguments = ["--rows", "6", "--agents", "2", "3", "--rounds", "2", "--rank", "4",
                 "--new-tokens", "3", "--problems", SUMS, "--only", "peers"]  # fmt: skip
    whole = ["bench-engine", "--model", model_folder, *arguments, "--json", str(file), *more]
    assert main(whole) == 0
    return json.loads(file.read_text(encoding="utf-8")), capsys.readouterr().out


def test_every_contender_has_its_figures(model_folder, capsys, tmp_path, have, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    have(engine("fast", ours))
    data, said = run(model_folder, capsys, tmp_path)
    names = ["base_float32", "mixed_2_float32", "mixed_3_float32", "fast_float32"]
    for name in names:
        for part in ("decode", "end_to_end"):
            assert data[f"{name}_{part}_tokens_per_second"] > 0
            assert len(data["rounds"][f"{name}_{part}"]) == 2
    rounds = data["rounds"]
    assert rounds["fast_float32_end_to_end"] == pytest.approx(
        [6 * 4 / taken for taken in rounds["fast_float32_seconds"]]
    )
    pairs = zip(
        rounds["fast_float32_seconds"], rounds["fast_float32_one_token_seconds"], strict=True
    )
    rates = [6 * 3 / max(whole - one, 1e-9) for whole, one in pairs]
    assert rounds["fast_float32_decode"] == pytest.approx(rates)
    for key, mine, other in (
        ("base_decode_vs_fast_float32", "base_float32_decode", "fast_float32_decode"),
        ("mixed_2_end_to_end_vs_fast_float32", "mixed_2_float32_end_to_end",
         "fast_float32_end_to_end"),
        ("population_decode_ratio_3_float32", "mixed_3_float32_decode", "base_float32_decode"),
    ):  # fmt: skip
        pairs = zip(rounds[mine], rounds[other], strict=True)
        assert data[key] == pytest.approx(np.median([a / b for a, b in pairs]))
    assert data["fast_float32_same_tokens"] == data["base_float32_same_tokens"] == 1
    assert data["environment"]["engines"] == {"fast_float32": {"a": "b"}}
    assert "population_decode_ratio_2" not in data
    assert "bare base float32 / fast float32, decoding" in " ".join(said.split())


def test_every_precision_of_a_base_is_measured_or_says_why(model_folder, capsys, tmp_path, have):
    have()
    data, _ = run(model_folder, capsys, tmp_path)
    assert "float32" in PRECISIONS
    assert "auto" not in PRECISIONS
    for precision in PRECISIONS:
        key = f"population_decode_ratio_2_{precision}"
        assert (data[key] is not None) != bool(data["reasons"].get(key)), key


def test_an_engine_that_cannot_run_has_a_line_and_the_rest_goes_on(
    model_folder, capsys, tmp_path, have, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")  # so that no word is cut in two

    def breaks(_):
        raise ValueError("no such layer\nat line 3")

    def breaks_later(bench):
        decode, calls = ours(bench), iter(range(100))

        def late(prompts, new_tokens):
            if next(calls) > 2:
                raise MemoryError
            return decode(prompts, new_tokens)

        return late

    have(
        engine("absent", ours, packages=("a_package_that_is_not_there",)),
        engine("unable", ours, runs_here=lambda: False),
        engine("broken", breaks),
        engine("late", breaks_later),
        engine("short", lambda bench: lambda p, n: [[1] * min(n, 2) for _ in p]),
        engine("fewer", lambda bench: lambda p, n: [[1] * n for _ in p[1:]]),
        engine("fast", ours),
    )
    data, said = run(model_folder, capsys, tmp_path)
    expected = {
        "absent": "not installed; pip install 'populora-env[peers]'",
        "unable": "this processor has no float32",
        "broken": "ValueError: no such layer",
        "late": "MemoryError",
        "short": "replies of 2 tokens, expected 4",
        "fewer": "5 replies, expected 6",
    }
    for name, reason in expected.items():
        key = f"{name}_float32_decode_tokens_per_second"
        assert data[key] is None
        assert data["reasons"][key] == reason
        key = f"base_decode_vs_{name}_float32"
        assert (data[key], data["reasons"][key]) == (None, f"no {name} float32")
    assert data["fast_float32_decode_tokens_per_second"] > 0
    assert data["base_decode_vs_fast_float32"] > 0
    assert "pip install" in said


def test_a_base_that_is_not_float32_on_a_cpu_is_told_what_it_takes(
    model_folder, capsys, tmp_path, have
):
    have(engine("fast", ours))
    data, _ = run(model_folder, capsys, tmp_path, "--dtype", "bfloat16")
    assert data["reasons"]["peers"] == "needs --device cpu --dtype float32"


def test_the_row_is_measured_on_demand_only():
    assert "peers" not in command.BenchEngineOptions().chosen()
    assert command.BenchEngineOptions(only=("peers",)).chosen() == ["peers"]


def test_the_keys_that_have_targets():
    for key in ("base_decode_vs_openvino_float32", "base_decode_vs_openvino_int8",
                "mixed_8_end_to_end_vs_openvino_int8", "population_decode_ratio_8_bfloat16",
                "population_decode_ratio_16_float32"):  # fmt: skip
        assert key in command.TARGETS
    assert {"openvino_float32", "openvino_int8", "ctranslate2_float32"} <= set(ENGINES)


def test_a_runner_that_failed_is_not_asked_again(bench):
    calls = []

    def decode(prompts, new_tokens):
        calls.append(new_tokens)
        raise RuntimeError

    runner = Runner(bench, decode)
    assert math.isnan(runner.seconds(4))
    assert math.isnan(runner.seconds(1))
    assert (calls, runner.reason) == ([4], "RuntimeError")


def test_errors_are_one_short_line():
    assert one_line(ValueError("\n  a\x07b \nc")) == "ValueError: a?b"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("x" * 999))) == 200


def test_shares_of_tokens():
    assert same_tokens([[1, 2], [3, 4]], [[1, 2], [3, 5]]) == 0.75


# Converted models


def test_the_key_tells_the_content(bench):
    base = bench.base
    key = content_key(base.model, base.tokenizer)
    assert re.fullmatch("[0-9a-f]{16}", key)
    assert content_key(bench.plain, base.tokenizer) == key  # loaded anew
    weight = bench.plain.get_input_embeddings().weight
    with torch.no_grad():
        weight[3, 0] += 1
    other = content_key(bench.plain, base.tokenizer)
    assert other != key
    bench.plain.config.rms_norm_eps *= 2
    assert content_key(bench.plain, base.tokenizer) not in (key, other)


def test_names_of_folders_are_plain():
    name = folder_name("/a b/My Model.gguf", "0123", "tool", "1.2+cpu/3", "int8")
    assert name == "My-Model.gguf-0123-tool-1.2-cpu-3-int8"
    assert folder_name("..", "0123", "tool", "1", "int8").startswith("model-0123")


def test_a_model_is_converted_once_and_whole_or_not(monkeypatch, tmp_path):
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path / "cache"))

    def breaks(work: Path):
        (work / "half").write_text("x")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        converted("a", breaks)
    assert list((tmp_path / "cache").iterdir()) == []
    made = []

    def works(work: Path):
        made.append(work)
        (work / "whole").write_text("x")

    assert (converted("a", works) / "whole").read_text() == "x"
    assert converted("a", works) == tmp_path / "cache" / "a"
    assert len(made) == 1


def test_another_process_may_finish_a_conversion_first(monkeypatch, tmp_path):
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path))

    def slow(work: Path):
        (work / "mine").write_text("x")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "theirs").write_text("x")

    assert [entry.name for entry in converted("a", slow).iterdir()] == ["theirs"]


def test_eight_bits_are_within_half_a_scale():
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((5, 64)).astype(np.float32)
    weight[1], weight[2] = 0, np.abs(weight[2]) + 3
    whole, scale, zero = quantised(weight)
    assert (whole.dtype, zero.dtype, scale.shape) == (np.uint8, np.uint8, (5, 1))
    again = (whole.astype(np.float32) - zero) * scale
    assert np.all(np.abs(again - weight) <= scale * 1.001)
    assert np.abs(again - weight).mean() < scale.mean() * 0.3
    assert np.all(again[1] == 0)


@pytest.mark.skipif(not REAL, reason="OpenVINO GenAI is not installed")
def test_openvino_decodes_the_same_tokens(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path))
    prompts = bench.prompts(6)
    decode = ENGINES["openvino_float32"].ready(bench)
    assert same_tokens(decode(prompts, 6), ours(bench)(prompts, 6)) > 0.9  # keys are in 8 bits
    assert {len(ids) for ids in ENGINES["openvino_int8"].ready(bench)(prompts, 4)} == {4}
    assert len(list(tmp_path.iterdir())) == 2
