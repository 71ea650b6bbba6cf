"""Noise: the same numbers from the compiled kernel and from NumPy, and normal ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.compiled import native
from evolution.lowrank import noise
from evolution.lowrank.noise import Noise


def draws(seed, shapes):
    source = Noise(np.random.default_rng(seed))
    return [source.normal(*shape) for shape in shapes]


@pytest.mark.skipif(native.kernel() is None, reason="no GCC on this machine")
def test_the_kernel_and_numpy_draw_the_same_numbers(monkeypatch):
    shapes = [(3, 5), (1,), (4,), (0,), (7, 11, 13), (257,)]
    compiled = draws(3, shapes)
    monkeypatch.setattr(noise, "kernel", lambda: None)
    for a, b, shape in zip(compiled, draws(3, shapes), shapes, strict=True):
        assert a.shape == shape
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("compiled", [True, False])
def test_draws_are_standard_normal_and_independent(monkeypatch, compiled):
    if not compiled:
        monkeypatch.setattr(noise, "kernel", lambda: None)
    first, second = (x.double() for x in draws(0, [(400_000,), (400_000,)]))
    error = 1 / len(first) ** 0.5
    for x in (first, second):
        assert abs(x.mean()) < 4 * error
        assert abs(x.square().mean() - 1) < 4 * 2**0.5 * error
        assert abs(x.pow(4).mean() - 3) < 4 * 96**0.5 * error
        assert abs((x > 1.959964).double().mean() - 0.025) < 4 * 0.16 * error
        assert x.abs().max() > 4
        for lag in (1, 2, 3, 4, 5, 8):
            assert abs((x[lag:] * x[:-lag]).mean()) < 4.5 * error
    assert abs((first * second).mean()) < 4 * error


def test_seeds_give_other_draws_and_the_same_seed_the_same():
    a, b, c = (draws(seed, [(64,)])[0] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
