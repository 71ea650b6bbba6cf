"""Adapters for a run that is made up: two modules in six layers, three directions each."""

from __future__ import annotations

import json

import torch

from agents.peft_io import write_adapter

RANK, IN, OUT, DEPTH = 3, 10, 8, 6
NAMES = [f"model.layers.{i}.self_attn.{m}" for i in range(DEPTH) for m in ("q_proj", "v_proj")]


def factors(seed, names=NAMES):
    rng = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(RANK, IN, generator=rng), torch.randn(OUT, RANK, generator=rng))
        for name in names
    }


def write_adapters(folder, generation, agents, *, scale=2.0):
    """Save agents' factors as a generation's adapters; returns the folder of the generation."""
    place = folder / f"generation_{generation:04d}"
    for number, own in enumerate(agents):
        write_adapter(
            place / "adapters" / f"agent_{number}", own, alpha=scale * RANK, dropout=0.0, base=""
        )
    lengths = {
        name: (folder / name).stat().st_size
        for name in ("history.jsonl", "transcripts.jsonl")
        if (folder / name).exists()
    }
    (place / "state.json").write_text(json.dumps({"lengths": lengths}))
    return place


def moved(own, step, seed=0):
    """Factors some distance away."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: (A, B + step * torch.randn(B.shape, generator=rng)) for name, (A, B) in own.items()
    }


def update(own, scale=2.0):
    """The whole update of all layers, flat."""
    return torch.cat([scale * (B.double() @ A.double()).flatten() for A, B in own.values()])
