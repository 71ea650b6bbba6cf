from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from agents.peft_io import PeftAdapter, read_adapter
from agents.population import CONFIG_FILE, WEIGHTS_FILE, AdapterError
from evolution.lowrank.merging import merge

SHAPES = {"body.up_proj": (20, 30), "body.down_proj": (30, 20), "body.k_proj": (4, 20)}


def adapter(rank, scale, seed, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: (
            torch.randn(rank, width, generator=generator),
            size * torch.randn(out, rank, generator=generator),
        )
        for name, (out, width) in SHAPES.items()
    }
    return made_of(factors, scale, "some/base")


def made_of(factors, scale, base=""):
    rank = max(A.shape[0] for A, _ in factors.values())
    return PeftAdapter(rank=rank, alpha=scale * rank, base=base, factors=factors)


def update(adapter, layer):
    A, B = adapter.factors[layer]
    return adapter.scale * (B.double() @ A.double())


def wanted(adapters, weights, layer):
    return sum(w * update(a, layer) for w, a in zip(weights, adapters, strict=True))


THREE = [adapter(2, 2.0, 0), adapter(3, 0.5, 1), adapter(1, 1.0, 2, size=5.0)]
WEIGHTS = [0.5, 0.8, -0.2]


def test_the_sum_of_the_ranks_loses_nothing():
    made = merge(THREE, WEIGHTS)
    assert made.adapter.rank == 6
    for layer in SHAPES:
        exact = wanted(THREE, WEIGHTS, layer)
        assert torch.allclose(update(made.adapter, layer), exact, atol=1e-5 * exact.norm().item())
    assert made.relative_error < 1e-5
    assert made.energy_kept == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_smaller_rank_is_the_best_there_is_and_its_error_is_measured(rank):
    made = merge(THREE, WEIGHTS, rank)
    lost, total, kept = 0.0, 0.0, 0.0
    relative = {}
    for layer in SHAPES:
        exact, got = wanted(THREE, WEIGHTS, layer), update(made.adapter, layer)
        best = torch.linalg.svdvals(exact)[rank:].square().sum().sqrt()
        assert torch.allclose((exact - got).norm(), best, rtol=1e-3, atol=1e-4)
        relative[layer] = ((exact - got).norm() / exact.norm()).item()
        assert made.errors[layer].relative == pytest.approx(relative[layer], rel=1e-4, abs=1e-6)
        lost += (exact - got).square().sum().item()
        total += exact.square().sum().item()
        kept += got.square().sum().item()
    assert made.relative_error == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    assert made.energy_kept == pytest.approx(kept / total, rel=1e-4)
    assert made.worst_layer == max(relative, key=relative.get)
    assert made.relative_error > 0.05


def test_the_error_is_that_of_the_stored_factors(monkeypatch):
    from evolution.lowrank import merging

    def halved(*arguments):
        made = compress(*arguments)
        return replace(made, B=made.B / 2)

    compress = merging.compress
    monkeypatch.setattr(merging, "compress", halved)
    made = merge(THREE, WEIGHTS)
    assert made.relative_error == pytest.approx(0.5, rel=1e-4)
    assert made.energy_kept == pytest.approx(0.25, rel=1e-4)


def test_rounding_shows_where_updates_nearly_cancel():
    first = adapter(2, 1.0, 0)
    nearly = {name: (A, B + 1e-4) for name, (A, B) in first.factors.items()}
    made = merge([first, made_of(nearly, 1.0)], [1.0, -1.0])
    assert 1e-6 < made.relative_error < 1e-2  # float32, of a sum that is 1e-4 of its parts


def test_a_sum_of_nothing_has_no_error():
    zero = made_of({n: (A, 0 * B) for n, (A, B) in THREE[0].factors.items()}, 2.0)
    made = merge([zero, zero], [1.0, 0.5])
    assert (made.relative_error, made.energy_kept) == (0.0, 1.0)


def test_progress_reaches_the_end():
    told = []
    merge(THREE, WEIGHTS, 1, lambda *what: told.append(what))
    assert [label for label, _ in told] == ["merging"] * 3
    assert [done for _, done in told] == pytest.approx([1 / 3, 2 / 3, 1])


def test_adapters_that_do_not_belong_together():
    other = adapter(2, 1.0, 3)
    del other.factors["body.k_proj"]
    more = adapter(2, 1.0, 3)
    more.factors["body.q_proj"] = more.factors["body.k_proj"]
    wider = adapter(2, 1.0, 3)
    wider.factors["body.k_proj"] = torch.zeros(2, 21), torch.zeros(4, 2)
    for bad in (other, more, wider):
        with pytest.raises(AdapterError, match="number 2 has other layers or shapes than number 1"):
            merge([THREE[0], bad], [1.0, 1.0])
    with pytest.raises(ValueError, match="weights: got 1 for 2 adapters"):
        merge(THREE[:2], [1.0])
    with pytest.raises(ValueError, match="rank: got 0"):
        merge(THREE, WEIGHTS, 0)


def test_folders_round_trip(tmp_path):
    folder = THREE[1].write(tmp_path / "x")
    again = read_adapter(folder)
    assert (again.scale, again.base, again.rank) == (0.5, "some/base", 3)
    for layer, pair in THREE[1].factors.items():
        for ours, theirs in zip(pair, again.factors[layer], strict=True):
            assert torch.equal(ours, theirs)


def spoiled(folder, config=None, **tensors):
    THREE[0].write(folder)
    if config:
        path = folder / CONFIG_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    whole = load_file(folder / WEIGHTS_FILE)
    save_file({**whole, **tensors}, folder / WEIGHTS_FILE)
    return folder


def test_folders_that_cannot_be_read(tmp_path):
    name = "base_model.model.body.k_proj.lora_A.weight"
    cases = {
        "use_dora is set": ({"use_dora": True}, {}),
        "has rank 2, but adapter_config.json says 0": ({"r": 0}, {}),
        "lora_alpha is None, expected a number": ({"lora_alpha": None}, {}),
        "'pissa', which changes the base's weights": ({"init_lora_weights": "pissa"}, {}),
        "'olora', which changes the base's weights": ({"init_lora_weights": "olora"}, {}),
        "values that are not finite": (None, {name: torch.full((2, 20), float("nan"))}),
        "are no factors of a linear layer": (None, {name: torch.zeros(5, 20)}),
        "it adapts embeddings": (
            None,
            {"base_model.model.embed.lora_embedding_A": torch.zeros(2, 2)},
        ),
    }
    for i, (said, (config, tensors)) in enumerate(cases.items()):
        with pytest.raises(AdapterError, match=said):
            read_adapter(spoiled(tmp_path / str(i), config, **tensors))
    with pytest.raises(AdapterError, match="not a readable PEFT adapter folder"):
        read_adapter(tmp_path / "nowhere")
    broken = made_of({"x": (torch.ones(1, 2), torch.full((2, 1), float("inf")))}, 1.0)
    with pytest.raises(AdapterError, match="factors of x are not finite"):
        broken.write(tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
