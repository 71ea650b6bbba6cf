"""The memory plan beside what a process holds, term by term on models of random weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from agents.loading.int8 import can_multiply_int8
from tests.test_rooms import ROOT


def measured(shape, asked, *, tensors=False):
    """Bytes beyond those before the base was there, by phase: measured and planned.

    With a fixed threshold glibc gives a freed block back at once, so that what is resident is what
    is held; by default it keeps blocks below 32 MiB, which is its own affair.
    """
    command = [sys.executable, "-m", "tests.evolution.planning.measured_peak"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(json.dumps, (shape, asked, tensors))], cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return found["measured"], found["planned"]


CASES = {
    "decoding, keys and values": ("float32", {}, {"learns": False, "replies": 96}),
    "decoding, distributions": (
        "int8",
        {"vocab_size": 49152, "hidden_size": 256},
        {"learns": False, "distributions": True, "replies": 96},
    ),
    "decoding, many adapters": (
        "float32",
        {},
        {"learns": False, "size": 16, "rank": 24, "replies": 32},
    ),
    "learning": ("int8", {}, {"size": 4, "replies": 4, "learned_rows": 16}),
    "learning, activations computed again": (
        "float32",
        {},
        {"size": 4, "replies": 4, "checkpointing": True, "learned_rows": 16, "batch": 4096},
    ),
    "learning, many adapters": (
        "float32",
        {"num_hidden_layers": 4},
        {"size": 8, "rank": 32, "replies": 8, "batch": 1024, "learned_rows": 4},
    ),
    "learning, frozen rows": (
        "float32",
        {},
        {"size": 4, "replies": 4, "learned_rows": 16, "learns_rows": False},
    ),
    "learning, many logits": (
        "float32",
        {"vocab_size": 49152, "hidden_size": 256, "intermediate_size": 704},
        {"size": 4, "replies": 4, "learned_rows": 16},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_within_a_tenth_of_what_is_held(name):
    products, shape, asked = CASES[name]
    if products == "int8" and not can_multiply_int8():
        pytest.skip("this processor multiplies no 8-bit integers")
    held, planned = measured(shape, {**asked, "products": products})
    print(name, {phase: (held[phase] >> 20, planned[phase] >> 20) for phase in held})
    for phase in set(held) - {"loading"}:
        assert planned[phase] == pytest.approx(held[phase], rel=0.1), phase


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_without_compiled_code_the_plan_is_within_a_tenth_of_the_tensors(checkpointing):
    """In bfloat16, as on a GPU; a CPU's own buffers for such products are not looked at."""
    asked = {"dtype": "bfloat16", "size": 4, "replies": 4, "learned_rows": 8, "batch": 1024}
    shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 3}
    held, planned = measured(shape, {**asked, "checkpointing": checkpointing}, tensors=True)
    print({phase: (held[phase] >> 20, planned[phase] >> 20) for phase in held})
    assert planned["learning"] == pytest.approx(held["learning"], rel=0.1)
