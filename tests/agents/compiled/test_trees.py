"""Compiled attention of packed rows: against attention under a mask, and against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.compiled.trees import attention
from agents.compiled.trees.attention import TreeRows, library
from agents.learning.packing import pack, plan

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled code here")
LANES = library().lanes if library() is not None else 1


def packed(seed, count=30, longest=70, tokens=3):
    """Rows of sequences that begin alike, at random, with padding."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(tokens, size=rng.integers(1, longest)).tolist() for _ in range(count)]
    stem = rng.integers(tokens, size=60).tolist()
    sequences = [stem[: rng.integers(60)] + own for own in drawn]
    (batch,) = plan(sequences, [0, 1, 2] * (count // 3), 10_000, attention=float("inf"))[:1]
    return sequences, batch, pack(batch, sequences)


def tensors(rows, places, heads, shared, width, seed=0):
    source = torch.Generator().manual_seed(seed)
    return [
        torch.randn(rows, places, n, width, generator=source).transpose(1, 2).requires_grad_()
        for n in (heads, shared, shared)
    ]


def under_a_mask(q, k, v, scale, visible):
    times = q.shape[1] // k.shape[1]
    wide = [q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)]
    mask = torch.from_numpy(visible)[:, None]
    made = torch.nn.functional.scaled_dot_product_attention(*wide, attn_mask=mask, scale=scale)
    return made.transpose(1, 2)


@pytest.mark.parametrize(
    ("heads", "shared", "width"), [(1, 1, LANES), (4, 2, 2 * LANES), (9, 3, 64), (2, 1, 5 * LANES)]
)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_attention_to_ancestors_with_its_gradients(heads, shared, width, seed):
    _, batch, rows = packed(seed)
    given = tensors(*rows.ids.shape, heads, shared, width, seed)
    got = TreeRows(rows.parents, [row.width for row in batch.rows])(*given, 0.2)
    wanted = under_a_mask(*given, 0.2, rows.visible())
    there = torch.zeros(rows.ids.shape, dtype=torch.bool)
    for r, row in enumerate(batch.rows):
        there[r, : row.width] = True
    torch.testing.assert_close(got[there], wanted[there], rtol=1e-4, atol=1e-5)
    assert not got[~there].any()
    up = torch.randn(got.shape, generator=torch.Generator().manual_seed(9))
    up[~there] = 0
    pairs = zip(*(torch.autograd.grad(out, given, up) for out in (got, wanted)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_a_place_depends_on_its_ancestors_alone():
    sequences, batch, rows = packed(5)
    q, k, v = tensors(*rows.ids.shape, 4, 2, 2 * LANES)
    tree = TreeRows(rows.parents, [row.width for row in batch.rows])
    together = tree(q, k, v, 0.3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(tree(q, k, v, 0.3), together)
    finally:
        torch.set_num_threads(threads)
    for member in (i for row in batch.rows for i in row.members[::4]):
        where, places = rows.places[member]
        alone = [x[where : where + 1, :, places] for x in (q, k, v)]
        line = TreeRows(np.arange(-1, len(sequences[member]) - 1)[None], [len(places)])
        assert torch.equal(line(*alone, 0.3)[0], together[where, places])


def test_gradients_are_the_same_whatever_the_threads():
    _, batch, rows = packed(6)
    given = tensors(*rows.ids.shape, 4, 2, LANES)
    tree = TreeRows(rows.parents, [row.width for row in batch.rows])
    threads, made = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            out = tree(*given, 0.3)
            made.append(torch.autograd.grad(out, given, out.detach()))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, three) for one, three in zip(*made, strict=True))


def test_long_segments_and_large_scores():
    parents = np.arange(-1, 299)[None]
    q, k, v = tensors(1, 300, 2, 2, LANES)
    out = TreeRows(parents, [300])(q, k, v, 30.0)
    wanted = under_a_mask(q, k, v, 30.0, np.tril(np.ones((1, 300, 300), dtype=bool)))
    torch.testing.assert_close(out, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "width", "dtype"),
    [((2, 5), LANES, "float32"), ((1, 6), LANES, "float32"), ((1, 5), LANES + 1, "float32"),
     ((1, 5), LANES, "float64")],
)  # fmt: skip
def test_what_does_not_fit_is_named(shape, width, dtype):
    given = [x.to(getattr(torch, dtype)) for x in tensors(*shape, 2, 1, width)]
    with pytest.raises(ValueError, match=r"queries, keys, values: got .* of 1 rows of 5 places"):
        TreeRows(np.arange(-1, 4)[None], [5])(*given, 1.0)


def test_what_computes_something_else_is_refused(monkeypatch):
    real = TreeRows.__call__

    def off(self, q, k, v, scale):  # its numbers are right, its gradients are not
        made = real(self, q, k, v, scale)
        return made + 0.01 * (q - q.detach()).transpose(1, 2)

    monkeypatch.setattr(TreeRows, "__call__", off)
    with pytest.raises(attention.NativeError, match="computes something else"):
        attention._prove(library())
