"""Adapter files of strangers in a process of its own: what reading one may take in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
MOST = 1 << 30  # bytes

# Says of each folder what the peak had risen by once it was read, and how that ended.
CHILD = """
import json, resource, sys
from agents.peft_io import AdapterError, read_adapter
from tests.conftest import memory_peak as peak
with open("/proc/self/statm") as file:
    mapped = int(file.read().split()[0]) * resource.getpagesize()
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (mapped + most, mapped + most))
before = peak()
for folder in sys.argv[2:]:
    said = "read"
    try:
        read_adapter(folder)
    except AdapterError as error:
        said = str(error)
    print(json.dumps([peak() - before, said]))
"""


def tensors(folder, header, body=b""):
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + body
    )


def factors(folder, A, B):
    named = {f"{LAYER}.lora_A.weight": A, f"{LAYER}.lora_B.weight": B}
    save_file(named, folder / "adapter_model.safetensors")


def many_names(folder, _):
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    tensors(folder, {f"{i:x}": empty for i in range(230_000)})


def long_names(folder, _):
    empty = {"dtype": "F32", "shape": [0, 0], "data_offsets": [0, 0]}
    tensors(folder, {f"{i}" + "x" * 10_000: empty for i in range(1_500)})


def many_layers(folder, config):
    config["r"] = 1
    entry = {"dtype": "F32", "shape": [1, 1]}
    header = {}
    for i in range(20_000):
        for letter in "AB":
            place = 4 * len(header)
            key = f"base_model.model.l.{i}.lora_{letter}.weight"
            header[key] = {**entry, "data_offsets": [place, place + 4]}
    tensors(folder, header, bytes(4 * len(header)))


def huge_shape(folder, _):
    tensors(folder, {f"{LAYER}.lora_A.weight": {
        "dtype": "F32", "shape": [2, 10**12], "data_offsets": [0, 8 * 10**12]}})  # fmt: skip


def wide_rank(folder, config):
    config["r"] = config["lora_alpha"] = 10**6
    factors(folder, torch.ones(10**6, 1), torch.ones(1, 10**6))


def huge_header(folder, _):
    (folder / "adapter_model.safetensors").write_bytes((2**40).to_bytes(8, "little") + bytes(99))


def long_config(folder, config):
    config["rank_pattern"] = {f"layer{i}": 2 for i in range(200_000)}
    factors(folder, torch.ones(2, 8), torch.ones(8, 2))


def huge_number(folder, config):
    config["r"] = 10**9
    factors(folder, torch.ones(2, 8), torch.ones(8, 2))


HOSTILE = {
    many_names: "it is no factor of a linear layer",
    long_names: "cannot be stacked",
    many_layers: "read",
    huge_shape: "not a readable PEFT adapter folder",
    wide_rank: "rank 1000000 is above its 1 inputs and 1 outputs",
    huge_header: "no header of at most 16 MiB",
    long_config: "read|has over 4 MiB",
    huge_number: "has rank 2, but adapter_config.json says 1e+09",
}


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.slow
def test_reading_takes_less_than_a_gibibyte(tmp_path):
    for make in HOSTILE:
        folder = tmp_path / make.__name__
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        make(folder, config)
        (folder / "adapter_config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(MOST), *(str(tmp_path / m.__name__) for m in HOSTILE)],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-600:]
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    for (make, said), (taken, ended) in zip(HOSTILE.items(), ends, strict=True):
        print(f"{make.__name__}: {taken >> 20} MiB, {ended[-150:]}")
        assert taken < MOST, make.__name__
        assert any(part in ended for part in said.split("|")), ended
