"""What a forward pass is served: dropout by key, and recomputation with the same adapters."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from agents.engine.adapters import Layout, StackedLora
from tests.agents.helpers import randomise

# PyTorch's layers and PEFT's adapters draw their first weights from the shared generator.
pytestmark = pytest.mark.usefixtures("shared_generators")


def logits(base, lora, ids, layout):
    with torch.no_grad(), lora.active(layout):
        return base.model(ids).logits


# Dropout


class OneLayer(nn.Module):
    """A linear layer that returns zero, so that only the adapters' update is seen."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width, bias=False).requires_grad_(False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x):
        return self.layer(x)


def identity_adapters(width, dropout):
    model = OneLayer(width)
    lora = StackedLora(
        model, len(dropout), width, alpha=float(width), targets=("layer",), dropout=dropout
    )
    for layer in lora.layers():
        layer.A[:] = torch.eye(width)
        layer.B[:] = torch.eye(width)
    return model, lora


def test_dropout_zeroes_the_agents_share_and_scales_up_the_rest():
    model, lora = identity_adapters(64, (0.0, 0.25, 0.5))
    x = torch.rand(3 * 40, 5, 64, generator=torch.Generator().manual_seed(0)) + 1
    with lora.active(Layout((0, 1, 2), 40), ("step", 1)):
        ratio = (model(x) / x).detach().view(3, -1)
    for seen, rate in zip(ratio, lora.dropout, strict=True):
        dropped = seen == 0
        assert torch.allclose(seen[~dropped], torch.tensor(1 / (1 - rate)), atol=1e-5)
        # 12,800 draws: three standard deviations are below 0.014.
        assert abs(dropped.float().mean().item() - rate) < 0.014 * (rate > 0) + 1e-9


@pytest.mark.usefixtures("shared_generators")
def test_dropout_follows_its_key_and_no_global_state():
    model, lora = identity_adapters(16, (0.5, 0.5))
    x = torch.ones(2, 3, 16)

    def update(*key):
        with lora.active(Layout((0, 1), 1), key):
            return model(x).detach()

    state = torch.get_rng_state()
    first = update("seed", 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(11)
    assert torch.equal(update("seed", 3), first)
    assert not torch.equal(update("seed", 4), first)
    assert not torch.equal(first[0], first[1])


def test_layers_drop_different_entries(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 1, 2, dropout=0.5))
    seen = {}
    for place, group in enumerate(lora.groups):
        group.A.register_hook(lambda grad, place=place: seen.update({place: grad.clone()}))
    with lora.active(Layout((0,), 1), ("k",)):
        tiny_base.model(torch.tensor([[5]])).logits.square().sum().backward()
    # The gradient of A is zero in the columns whose only input was dropped.
    patterns = [(grad[0] != 0).any(0) for grad in seen.values() if grad.shape[2] == 48]
    assert len(patterns) == 6
    assert all(0.2 < pattern.float().mean() < 0.8 for pattern in patterns)
    assert len({tuple(pattern.tolist()) for pattern in patterns}) == len(patterns)


def test_dropout_is_off_without_gradients_and_in_evaluation_mode():
    model, lora = identity_adapters(16, (0.5,))
    x = torch.ones(1, 3, 16)
    with torch.no_grad(), lora.active(Layout((0,), 1)):
        assert torch.equal(model(x), x)
    with lora.active(Layout((0,), 1), ("k",)):
        with torch.no_grad():
            assert torch.equal(model(x), x)
        assert not torch.equal(model(x), x)
    with pytest.raises(ValueError, match="key: got None, but an agent of the layout has dropout"):  # noqa: SIM117
        with lora.active(Layout((0,), 1)):
            pass
    lora.eval()
    with lora.active(Layout((0,), 1)):
        assert torch.equal(model(x), x)
    lora.train().set_dropout(0, 0.0)
    with lora.active(Layout((0,), 1)):
        assert torch.equal(model(x), x)


# Gradient checkpointing


def two_passes(base, lora, *, inside):
    """Gradients of two passes with different agents and one backward pass; and base calls."""
    calls = []
    q_proj = base.model.model.layers[0].self_attn.q_proj.base
    handle = q_proj.register_forward_hook(lambda *_: calls.append(1))
    ids = torch.arange(12).view(2, 6)
    lora.zero_grad()
    with lora.active(Layout((0, 2), 1), ("first",)):
        loss = base.model(ids, use_cache=False).logits.square().mean()
    with lora.active(Layout((1, 0), 1), ("second",)):
        loss = loss + base.model(ids, use_cache=False).logits.square().mean()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    handle.remove()
    return [p.grad.clone() for p in lora.parameters()], len(calls)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("switch", ["ours", "transformers"])
@pytest.mark.parametrize("dropout", [0.0, (0.3, 0.0, 0.5)])
def test_gradient_checkpointing_gives_equal_gradients(tiny_base, switch, inside, dropout):
    lora = randomise(StackedLora(tiny_base.model, 3, (2, 4, 3), dropout=dropout))
    lora.enforce_ranks()
    wanted, calls = two_passes(tiny_base, lora, inside=inside)
    assert calls == 2
    if switch == "ours":
        lora.gradient_checkpointing()
    else:
        tiny_base.model.activation_checkpointing_enable({"use_reentrant": False})
        tiny_base.model.train()
    got, calls = two_passes(tiny_base, lora, inside=inside)
    assert calls == 4  # each pass was recomputed
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert lora._routing.input is None
    assert not lora._routing._kept


def test_checkpointing_leaves_decoding_and_the_base_alone(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 2, 2))
    ids = torch.randint(0, 200, (2, 5), generator=torch.Generator().manual_seed(1))
    before = logits(tiny_base, lora, ids, Layout((0, 1), 1))
    lora.gradient_checkpointing()
    with lora.active(Layout((0, 1), 1)):
        tiny_base.model(ids, use_cache=False).logits.sum().backward()
    assert not any(module.training for module in tiny_base.model.modules())
    with torch.no_grad(), lora.active(Layout((0, 1), 1)):
        cached = tiny_base.model(ids, use_cache=True)
    assert torch.equal(cached.logits, before)
    assert cached.past_key_values.get_seq_length() == 5


def test_checkpointing_can_be_switched_off(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    lora.gradient_checkpointing()
    assert two_passes(tiny_base, lora, inside=False)[1] == 4
    lora.gradient_checkpointing(False)
    assert two_passes(tiny_base, lora, inside=False)[1] == 2


def test_recomputation_by_other_means_is_refused_outside_the_layout(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 1, 2))
    ids = torch.tensor([[1, 2, 3]])
    with lora.active(Layout((0,), 1)):
        out = checkpoint(lambda: tiny_base.model(ids).logits, use_reentrant=False)
    with pytest.raises(RuntimeError, match=r"recomputed outside StackedLora\.active"):
        out.sum().backward()
