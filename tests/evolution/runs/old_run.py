"""A run of two generations that was made before modules moved into rooms, and its third.

``data/run_before_rooms/before`` is the run after two generations, with a setting changed in
between; ``after`` holds what its third generation wrote: whole files, and the new rows of those
that grow. That was by the code of that time, and again by the first whose low-rank products add up
in another order: texts were the same, numbers as near as the tests ask. The weights of the base are
made of integers, so that every machine has the same.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from agents.compiled.native import kernel
from agents.population import LoraPopulation
from evolution.config import RunConfig
from evolution.manager import EvolutionManager
from populora_env import Preference, Verdict
from tests.conftest import make_tiny_base

FOLDER = Path(__file__).parent / "data" / "run_before_rooms"
ARITHMETIC = "b556f20d8d8bbba85431a1328aa55b2d2acabf0c9664571baa9ecaff5ded76bd"
"""`arithmetic` of the machine on which the run was made."""


class PrefersLonger:
    def judge(self, comparisons):
        return [
            Verdict(Preference.A if len(entry.first) > len(entry.second) else Preference.B)
            for entry in comparisons
        ]


def make_base():
    base = make_tiny_base(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for parameter in base.model.parameters():
            drawn = rng.integers(-128, 129, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn / 256))
        digits = base.tokenizer("0123456789")["input_ids"]
        base.model.lm_head.weight[digits] *= 4  # so that some replies are numbers
    return base


def make_manager(config: RunConfig) -> EvolutionManager:
    population = LoraPopulation(make_base(), config.size, config.rank)
    return EvolutionManager(population, config.problems, config, judge=PrefersLonger())


def arithmetic() -> str:
    """Digest of sums that differ in their last bits from processor to processor."""
    model = make_base().model
    with torch.no_grad():
        logits = model(torch.arange(40)[None]).logits[0].float()
    parts = [logits, logits.exp(), *torch.linalg.svd(logits), *torch.linalg.qr(logits)]
    digest = hashlib.sha256(str(kernel() is None).encode())
    for part in parts:
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
