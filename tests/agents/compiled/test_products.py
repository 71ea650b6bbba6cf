"""Compiled products: against float64, and the same for a row whoever stands beside it."""

from __future__ import annotations

import pytest
import torch

from agents.compiled import products
from agents.compiled.products import Panels, library

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled code here")
PRECISIONS = library().precisions if library() is not None else ()
SHAPES = [(1, 1, 1), (7, 33, 50), (9, 64, 48), (300, 130, 97)]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(precision, outputs, inputs, bias):
    weight = drawn(outputs, inputs, seed=1)
    added = drawn(outputs, seed=2) if bias else None
    if precision != "int8":
        exact = weight.to(getattr(torch, precision)).double()
        return Panels.of(weight, added, precision=precision), exact, added
    integers, scales = (weight * 40).round().clamp(-127, 127), drawn(outputs, seed=3).abs() + 0.1
    made = Panels.of(integers.to(torch.int8), added, precision="int8", scales=scales)
    return made, integers.double() * scales[:, None].double(), added


def turned(x):
    """Times the Hadamard matrix of 64, block by block."""
    matrix = torch.ones(1, 1, dtype=x.dtype)
    while len(matrix) < 64:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return (x.view(len(x), -1, 64) @ matrix).view(x.shape)


def rounded(x, precision):
    """The rows as the product sees them, turned where it turns them."""
    if precision != "int8":
        return x.to(getattr(torch, precision)).double()
    if x.shape[1] % 64 == 0:
        x = turned(x)
    step = x.abs().amax(1, keepdim=True) / 127
    return (x / step).round().double() * step.double()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_the_rounded_numbers(precision, rows, inputs, outputs, bias):
    panels, weight, added = packed(precision, outputs, inputs, bias)
    x = drawn(rows, inputs)
    expected = rounded(x, precision) @ weight.T + (0 if added is None else added.double())
    got = panels.multiply(x)
    assert got.shape == (rows, outputs)
    # An input on the border of two integers may fall on the other side: one step of one input.
    slack = 1e-5 if precision != "int8" else float(x.abs().max()) / 127 * 64
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=slack * inputs**0.5)
    if precision == "int8":
        assert (got - expected).abs().median() < 1e-3 * expected.abs().median()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_depends_on_nothing_but_itself(precision):
    panels, _, _ = packed(precision, 100, 192, bias=True)
    x = drawn(37, 192)
    together = panels.multiply(x)
    assert torch.equal(torch.cat([panels.multiply(row[None]) for row in x]), together)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(panels.multiply(x), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_spoils_itself_alone(precision, bad):
    panels, _, _ = packed(precision, 50, 128, bias=False)
    x = drawn(9, 128)
    clean = panels.multiply(x)
    x[4, 7] = bad
    got = panels.multiply(x)
    assert not got[4].isfinite().any()
    keep = [i for i in range(9) if i != 4]
    assert torch.equal(got[keep], clean[keep])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_zeros_no_rows_and_more_dimensions(precision):
    panels, _, added = packed(precision, 50, 128, bias=True)
    assert torch.equal(panels.multiply(torch.zeros(2, 128)), added.expand(2, 50))
    assert panels.multiply(torch.zeros(0, 128)).shape == (0, 50)
    x = drawn(2, 3, 128)
    assert torch.equal(panels.multiply(x).view(6, 50), panels.multiply(x.view(6, 128)))


@pytest.mark.skipif(not (library() and library().differentiates), reason="no compiled gradients")
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [*SHAPES, (530, 192, 1000)])
def test_gradients_are_products_with_the_same_weight(rows, inputs, outputs):
    panels, weight, _ = packed("int8", outputs, inputs, bias=True)
    y = drawn(rows, outputs)
    scales = panels.scales[:outputs]
    integers = weight / scales.double()[:, None]
    torch.testing.assert_close(panels.integers().double(), integers)
    exact = (y * scales).bfloat16().double() @ integers
    if inputs % 64 == 0:
        exact = turned(exact)
    got = panels.gradient(y)
    torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))
    alone = torch.cat([panels.gradient(row[None]) for row in y[:9]])
    assert torch.equal(alone, got[:9])
    assert torch.equal(panels.gradient(y.view(1, rows, outputs)), got[None])
    assert panels.gradient(y[:0]).shape == (0, inputs)


@pytest.mark.skipif(not (library() and library().matrices), reason="no AMX here")
@pytest.mark.parametrize("rows", [1, 3, 16, 17, 32, 33, 77, 300])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 48), (128, 97), (576, 1000), (130, 97)])
def test_amx_gives_the_same_integers(rows, inputs, outputs):
    panels, _, _ = packed("int8", outputs, inputs, bias=True)
    halves, _, _ = packed("bfloat16", outputs, inputs, bias=True)
    x, y = drawn(rows, inputs), drawn(rows, outputs)
    fast, back, half = panels.multiply(x), panels.gradient(y), halves.multiply(x)
    library().matrices = False
    try:
        assert not library().matrices
        assert torch.equal(panels.multiply(x), fast)
        slack = 1e-5 * float(half.abs().max())
        torch.testing.assert_close(halves.multiply(x), half, rtol=1e-4, atol=slack)
        slack = 1e-5 * float(back.abs().max())
        torch.testing.assert_close(panels.gradient(y), back, rtol=1e-4, atol=slack)
    finally:
        library().matrices = True
    assert library().matrices


@pytest.mark.skipif("bfloat16" not in PRECISIONS, reason="no products in bfloat16")
def test_gradients_of_other_precisions_are_not_compiled():
    panels, _, _ = packed("bfloat16", 5, 8, bias=False)
    with pytest.raises(ValueError, match="precision: got 'bfloat16', expected 'int8'"):
        panels.gradient(drawn(2, 5))


def test_what_computes_something_else_is_refused(monkeypatch):
    def off(self, x, made=None):
        return torch.zeros(len(x), self.outputs)

    monkeypatch.setattr(Panels, "multiply", off)
    with pytest.raises(products.NativeError, match="computes something else"):
        products._prove(library())
