"""The compiled kernel computes what PyTorch does, and is done without where there is none."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat

import pytest
import torch
from torch import nn

from agents.compiled import compiling, native
from agents.engine.adapters import Layout, RowLayout, StackedLora
from tests.agents.helpers import randomise

# PyTorch's layers and PEFT's adapters draw their first weights from the shared generator.
pytestmark = pytest.mark.usefixtures("shared_generators")

needs_kernel = pytest.mark.skipif(native.kernel() is None, reason="no GCC on this machine")
LAYOUTS = [
    Layout((0, 1, 2), 3),
    Layout((2, 0, 2), 1),
    RowLayout((1, 0, 2, 1, 1, 0, 1)),
    RowLayout((2,) * 19),
]


def logits(base, lora, ids, layout):
    with torch.no_grad(), lora.active(layout):
        return base.model(ids).logits


def with_and_without(base, lora, ids, layout, monkeypatch):
    ours = logits(base, lora, ids, layout)
    with monkeypatch.context() as patch:
        patch.setattr(native, "kernel", lambda: None)
        return ours, logits(base, lora, ids, layout)


def rows_of(layout):
    return len(layout.rows) if isinstance(layout, RowLayout) else 3 * layout.rows_each


@needs_kernel
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("targets", ["all-linear", ("k_proj", "v_proj", "down_proj")])
@pytest.mark.parametrize(("rank", "alpha"), [(8, None), ((1, 5, 3), (2.0, 3.0, 7.5))])
def test_the_kernel_computes_what_pytorch_does(
    tiny_base, monkeypatch, layout, tokens, targets, rank, alpha
):
    lora = randomise(StackedLora(tiny_base.model, 3, rank, alpha=alpha, targets=targets))
    lora.enforce_ranks()
    ids = torch.randint(
        0, 200, (rows_of(layout), tokens), generator=torch.Generator().manual_seed(0)
    )
    ours, plain = with_and_without(tiny_base, lora, ids, layout, monkeypatch)
    assert not torch.equal(ours, plain)  # other code, other rounding
    assert ((ours - plain).norm() / plain.norm()).item() <= 1e-5
    bare = logits(tiny_base, lora, ids, None)
    assert ((bare - plain).norm() / plain.norm()).item() > 1e-2


@needs_kernel
def test_a_rows_update_does_not_depend_on_the_rows_beside_it():
    source = torch.Generator().manual_seed(1)
    A = torch.randn(3, 2 * 4, 50, generator=source)
    B = [torch.randn(3, 4, out, generator=source).transpose(1, 2) for out in (77, 32)]
    x = torch.randn(30, 1, 50, generator=source)
    rows = torch.randint(0, 3, (30,), generator=source).tolist()

    def update(which):
        got = [torch.zeros(len(which), 1, b.shape[1]) for b in B]
        kernel = native.kernel()
        plan = native.Plan([rows[i] for i in which], 1, torch.tensor([1.0, 0.5, 2.0]), kernel.block)
        kernel.update(native.Factors(A, B), plan, x[which], got)
        return torch.cat(got, -1)

    together = update(list(range(30)))
    for which in ([0], [7, 3], [29, 28, 5, 1, 0, 17, 11, 12, 13, 14]):
        assert torch.equal(update(which), together[which])


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_plan_covers_every_token_once_and_keeps_agents_apart(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows = [2, 0, 2, 2, 1, 0]
        plan = native.Plan(rows, 7, torch.ones(3), 8)
    finally:
        torch.set_num_threads(before)
    tasks, order, _ = plan._held
    covered = [place for _, first, count in tasks for place in range(first, first + count)]
    assert covered == list(range(len(rows) * 7))
    assert sorted(order.tolist()) == covered
    assert len(tasks) >= threads
    assert max(count for *_, count in tasks) <= 8
    for agent, first, count in tasks:
        assert {rows[token // 7] for token in order[first : first + count]} == {agent}


class Siblings(nn.Module):
    """Three layers that read one input, as attention has them."""

    def __init__(self):
        super().__init__()
        for name, out in (("q_proj", 24), ("k_proj", 8), ("v_proj", 8)):
            setattr(self, name, nn.Linear(16, out).requires_grad_(False))


@needs_kernel
def test_siblings_may_be_called_in_any_order_and_with_other_inputs(monkeypatch):
    model = Siblings()
    lora = randomise(StackedLora(model, 2, 4))
    x, other = (
        torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(1)),
        torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(2)),
    )
    calls = [
        (model.v_proj, x), (model.q_proj, x), (model.q_proj, x), (model.k_proj, other),
        (model.k_proj, x), (model.v_proj, other), (model.v_proj, other),
    ]  # fmt: skip

    def run():
        with torch.no_grad(), lora.active(Layout((0, 1), 1)):
            return [layer(given).clone() for layer, given in calls]

    ours = run()
    assert not lora._routing._kept
    monkeypatch.setattr(native, "kernel", lambda: None)
    for got, wanted in zip(ours, run(), strict=True):
        assert torch.allclose(got, wanted, atol=1e-5)


@needs_kernel
@pytest.mark.parametrize(
    "change",
    [
        lambda A, B: (A.double(), [b.double() for b in B]),
        lambda A, B: (A, [b.contiguous() for b in B]),
        lambda A, B: (A[:, :, ::2], B),
        lambda A, B: (A, [*B] * 4),
        lambda A, B: (A.repeat(1, 200, 1), B),
    ],
)
def test_factors_it_cannot_read_are_left_to_pytorch(change):
    A, B = torch.zeros(2, 8, 12), [torch.zeros(2, 4, 9).transpose(1, 2)] * 2
    kernel = native.kernel()
    assert kernel.factors(A, B) is not None
    assert kernel.factors(*change(A, B)) is None


@needs_kernel
def test_an_input_with_other_rows_than_the_layout_is_refused(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 2, 4))
    for rows in (3, 8):
        with (
            torch.no_grad(),
            lora.active(Layout((0, 1), 2)),
            pytest.raises(ValueError, match=f"saw {rows} tokens of a batch of 4 rows"),
        ):
            tiny_base.model(torch.zeros(rows, 1, dtype=torch.long))


@needs_kernel
def test_gradients_are_left_to_pytorch(tiny_base, monkeypatch):
    lora = randomise(StackedLora(tiny_base.model, 2, 4))
    monkeypatch.setattr(native.Kernel, "update", lambda *_: pytest.fail("the kernel was called"))
    with lora.active(Layout((0, 1), 1)):
        tiny_base.model(torch.zeros(2, 3, dtype=torch.long)).logits.sum().backward()
    assert all(p.grad is not None for p in lora.parameters())


@pytest.mark.parametrize("shape", [(3, 32, 576), (2, 7, 13), (1, 1, 1), (4, 5, 8), (0, 3, 4)])
@pytest.mark.parametrize("compiled", [True, False])
def test_inner_products_are_exact_in_float64(monkeypatch, shape, compiled):
    if not compiled:
        monkeypatch.setattr(native, "kernel", lambda: None)
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows[..., 0] *= 1e6
    got, wanted = native.gram(rows), rows.double() @ rows.double().transpose(1, 2)
    assert got.dtype == torch.float64
    size = rows.double().norm(dim=2)
    error = (got - wanted).abs() / (size[:, :, None] * size[:, None, :])
    assert (error <= 1e-14).all()


def test_inner_products_show_what_is_not_finite():
    rows = torch.ones(2, 3, 40)
    rows[1, 2, 17] = torch.nan
    bad = torch.isnan(native.gram(rows))
    assert bad[1, 2].all()
    assert bad[1, :, 2].all()
    assert bad.sum() == 5


# Without it


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("POPULORA_NATIVE", "0")
    with pytest.raises(compiling.NativeError, match="POPULORA_NATIVE is 0"):
        native.build()


def test_without_a_compiler_there_is_none_and_no_error(monkeypatch, tmp_path, tiny_base):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(native, "kernel", native.kernel.__wrapped__)
    assert native.kernel() is None
    lora = randomise(StackedLora(tiny_base.model, 1, 4))
    assert torch.isfinite(logits(tiny_base, lora, torch.tensor([[1]]), Layout((0,), 1))).all()


def kept(tmp_path):
    (file,) = tmp_path.glob("cache/*/*.so")
    return file


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: os.truncate(file, file.stat().st_size // 2),
        lambda file: os.truncate(file, 0),
        lambda file: file.chmod(0o666),
        lambda file: file.chmod(0o770),
        lambda file: file.parent.chmod(0o777),
        lambda file: os.chown(file, 12345, 12345),
        lambda file: os.chown(file.parent, 12345, 12345),
        lambda file: file.write_bytes(b"\x7fELF junk"),
        lambda file: file.rename(file.parent / "x") and file.symlink_to(file.parent / "x"),
        lambda file: file.write_bytes(b"none" + hashlib.sha256(b"none").digest()),
    ],
)
@needs_kernel
def test_a_cached_library_that_is_not_ours_or_not_whole_is_compiled_again(
    monkeypatch, tmp_path, spoil
):
    source = tmp_path / "small.c"
    source.write_text("const int populora_part = 5;")
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path / "cache"))
    compiling.load(source, ["populora_part"])
    file = kept(tmp_path)
    copy = shutil.copy(file, tmp_path / "copy")  # the first one is in this process's memory
    os.replace(copy, file)
    try:
        spoil(file)
    except PermissionError:
        pytest.skip("needs root")
    compiled = []
    real = compiling._compile
    monkeypatch.setattr(compiling, "_compile", lambda *a: (compiled.append(a), real(*a)))
    library, _ = compiling.load(source, ["populora_part"])
    assert ctypes.c_int.in_dll(library, "populora_part").value == 5
    assert len(compiled) == 1


@pytest.mark.slow
@needs_kernel
@pytest.mark.parametrize(
    "command",
    [
        "gcc 'x",
        *(
            pytest.param(c, marks=pytest.mark.slow)
            for c in ("'", "/", "no-such-compiler", "gcc -E", "false")
        ),
    ],
)
def test_an_odd_compiler_raises_nothing(monkeypatch, tmp_path, command):
    monkeypatch.setenv("CC", command)
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "kernel", native.kernel.__wrapped__)
    made = native.kernel()
    assert made is None or made.compiler.startswith("GCC")


@pytest.mark.slow
@needs_kernel
def test_what_a_compiler_says_may_be_any_bytes_and_no_version(monkeypatch, tmp_path):
    says = (
        'case "$*" in *-dM*) gcc "$@" | grep -v __VERSION__; printf "\\377\\n";; '
        '*) printf "\\377" >&2; exec gcc "$@";; esac'
    )
    monkeypatch.setenv("CC", script(tmp_path / "cc", says))
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path / "cache"))
    assert native.build().compiler == "GCC"


@pytest.mark.slow
@needs_kernel
def test_without_a_home_folder_it_is_compiled_for_now(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiling, "cache_folder", nowhere)
    assert native.build().compiler.startswith("GCC")


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


@needs_kernel
def test_a_compiler_that_fails_is_named_and_leaves_nothing(monkeypatch, tmp_path):
    failing = 'case "$*" in *-dM*) exec gcc "$@";; esac; echo no room >&2; exit 1'
    monkeypatch.setenv("CC", script(tmp_path / "cc", failing))
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(compiling.NativeError, match=r"cc failed: no room"):
        native.build()
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.slow
@needs_kernel
def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch, tmp_path):
    folder = shutil.copytree(native._SOURCE.parent, tmp_path / "compiled")
    header = folder / "lowrank.h"
    right = header.read_text()
    header.write_text(right.replace("= scale * sum", "= scale * sum * 1.01f"))
    assert header.read_text() != right
    monkeypatch.setattr(native, "_SOURCE", folder / "native.c")
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(compiling.NativeError, match="something else"):
        native.build()


@needs_kernel
def test_it_is_compiled_once_into_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path))
    native.build()
    (file,) = tmp_path.glob("*/*")
    monkeypatch.setattr(compiling, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native.build().compiler.startswith("GCC")
    assert file.name.startswith("native-")


@pytest.mark.slow
@needs_kernel
def test_a_cache_folder_that_cannot_be_written_is_done_without(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POPULORA_CACHE", str(tmp_path / "file" / "below"))
    assert native.build().compiler.startswith("GCC")
