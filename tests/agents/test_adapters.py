from __future__ import annotations

import gc
import hashlib
import weakref

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from agents.adapters import Layout, StackedLora
from agents.learners import LearnerConfig, PolicyGradient, Sample
from agents.population import LoraPopulation
from tests.agents.helpers import randomise


def relative_error(a, b):
    return ((a - b).float().norm() / b.float().norm()).item()


def logits(base, lora, ids, layout):
    with torch.no_grad(), lora.active(layout):
        return base.model(ids).logits


def own_factors(lora, seed=0):
    """Random factors, each agent within its own rank."""
    randomise(lora, seed=seed)
    lora.enforce_ranks()
    return lora


def gradients(lora):
    return {name: p.grad.clone() for name, p in lora.named_parameters()}


def hash_of(model):
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.replace(".base.", ".").encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def test_newborn_adapters_leave_the_logits_unchanged(tiny_base):
    ids = torch.randint(0, 200, (6, 9))
    with torch.no_grad():
        before = tiny_base.model(ids).logits
    lora = StackedLora(tiny_base.model, 3, 4)
    assert torch.equal(logits(tiny_base, lora, ids, Layout((0, 1, 2), 2)), before)
    randomise(lora)
    assert not torch.allclose(logits(tiny_base, lora, ids, Layout((0, 1, 2), 2)), before)
    assert torch.equal(logits(tiny_base, lora, ids, None), before)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), ("k_proj", "down_proj")])
@pytest.mark.parametrize(("rank", "alpha"), [(4, None), ((1, 4, 3), (2.0, 3.0, 7.5))])
def test_forward_and_gradients_equal_each_adapter_alone_in_peft(
    tiny_base, tmp_path, targets, rank, alpha
):
    population = LoraPopulation(tiny_base, 3, rank, alpha, targets)
    lora = own_factors(population.lora)
    folders = population.save_adapters(tmp_path)
    ids = torch.randint(0, 200, (6, 11))
    with lora.active(Layout((0, 1, 2), 2)):
        ours = tiny_base.model(ids).logits
    ours.square().mean(dim=(1, 2)).sum().backward()
    lora.detach()
    stacked = {
        name: (A.clone(), B.clone())
        for names, group in zip(lora._names, lora.groups, strict=True)
        for name, A, B in zip(
            names, group.A.grad.split(lora.rank, 1), [b.grad for b in group.B], strict=True
        )
    }
    plain = tiny_base.model
    base_logits = plain(ids).logits.detach()
    for agent, folder in enumerate(folders):
        peft = PeftModel.from_pretrained(plain, folder, is_trainable=True)
        rows = slice(2 * agent, 2 * agent + 2)
        theirs = peft(ids[rows]).logits
        theirs.square().mean(dim=(1, 2)).sum().backward()
        assert relative_error(ours[rows], theirs) <= 1e-5
        assert relative_error(ours[rows], base_logits[rows]) > 1e-2
        own = int(lora.ranks[agent])
        for name, (A, B) in stacked.items():
            layer = peft.base_model.model.get_submodule(name)
            assert relative_error(A[agent, :own], layer.lora_A["default"].weight.grad) <= 1e-4
            assert relative_error(B[agent, :, :own], layer.lora_B["default"].weight.grad) <= 1e-4
            assert not A[agent, own:].any()
            assert not B[agent, :, own:].any()
        plain = peft.unload()


@pytest.mark.parametrize(("adapters", "cast"), [(None, False), (torch.float32, True)])
def test_a_bfloat16_base_equals_plain_peft(tiny_base, tmp_path, adapters, cast):
    tiny_base.model.to(torch.bfloat16)
    population = LoraPopulation(
        tiny_base, 2, 4, 5.0, adapter_dtype=None if adapters is None else "float32"
    )
    lora = randomise(population.lora)
    assert {p.dtype for p in lora.parameters()} == {adapters or torch.bfloat16}
    folders = population.save_adapters(tmp_path)
    ids = torch.randint(0, 200, (2, 9))
    with lora.active(Layout((0, 1), 1)):
        ours = tiny_base.model(ids).logits
    ours.float().square().mean().backward()
    assert all(torch.isfinite(g).all() and g.any() for g in gradients(lora).values())
    assert relative_error(logits(tiny_base, lora, ids, Layout((0, 1), 1)), ours.detach()) <= 1e-2
    lora.detach()
    for agent, folder in enumerate(folders):
        peft = PeftModel.from_pretrained(tiny_base.model, folder, autocast_adapter_dtype=cast)
        with torch.no_grad():
            theirs = peft(ids[agent : agent + 1]).logits
            other = peft(ids[1 - agent : 2 - agent]).logits
        peft.unload()
        # Rounding to 8 bits in every layer, in another order than PEFT's.
        assert relative_error(ours[agent : agent + 1], theirs) <= 5e-2
        assert relative_error(ours[1 - agent : 2 - agent], other) > 0.5


def test_real_model_forward_equals_plain_peft(smollm, tmp_path):
    population = LoraPopulation(smollm, 2, (4, 2))
    own_factors(population.lora)
    for layer in population.lora.layers():
        layer.B.mul_(0.04)
    folders = population.save_adapters(tmp_path)
    ids = torch.tensor([smollm.chat_ids("What is 3 + 4?")] * 2)
    try:
        ours = logits(smollm, population.lora, ids, Layout((0, 1), 1))
    finally:
        population.lora.detach()
    for agent, folder in enumerate(folders):
        peft = PeftModel.from_pretrained(smollm.model, folder)
        with torch.no_grad():
            theirs = peft(ids[:1]).logits
        peft.unload()
        assert relative_error(ours[agent : agent + 1], theirs) <= 1e-5


def test_any_subset_and_order_of_agents(tiny_base):
    lora = own_factors(StackedLora(tiny_base.model, 4, (2, 1, 2, 3), (1.0, 2.0, 3.0, 4.0)))
    ids = torch.randint(0, 200, (4, 5))
    everyone = logits(tiny_base, lora, ids, Layout((0, 1, 2, 3), 1))
    some = logits(tiny_base, lora, ids[[3, 1]], Layout((3, 1), 1))
    assert relative_error(some, everyone[[3, 1]]) < 1e-5


def test_each_agent_gets_only_its_own_gradient(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    ids = torch.randint(0, 200, (3, 5))
    with lora.active(Layout((0, 1, 2), 1)):
        tiny_base.model(ids).logits[1].square().mean().backward()
    for parameter in lora.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].abs().sum() > 0
        assert parameter.grad[[0, 2]].abs().sum() == 0
    assert all(p.grad is None for p in tiny_base.model.parameters())


# Ranks of their own


def beyond_ranks(lora):
    """The largest absolute value beyond any agent's rank."""
    outside = ~lora.mask
    return max(
        max(layer.A[outside].abs().max(), layer.B.transpose(1, 2)[outside].abs().max())
        for layer in lora.layers()
    )


def test_what_is_beyond_a_rank_stays_zero_while_learning(tiny_base):
    lora = own_factors(StackedLora(tiny_base.model, 3, (1, 4, 2)))
    assert lora.mask.tolist() == [[True] + [False] * 3, [True] * 4, [True] * 2 + [False] * 2]
    learner = PolicyGradient(tiny_base, lora, LearnerConfig(learning_rate=0.01, weight_decay=0.1))
    before = [layer.B.clone() for layer in lora.layers()]
    ids = tiny_base.chat_ids("question")
    for _ in range(3):
        learner.step([Sample(agent, ids, [1, 2, 3], 1.0) for agent in range(3)])
    assert all((y != x.B).any() for x, y in zip(lora.layers(), before, strict=True))
    assert beyond_ranks(lora) == 0


def test_enforcing_ranks_cuts_what_is_beyond_them(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 2, (1, 3)))
    kept = [(layer.A.clone(), layer.B.clone()) for layer in lora.layers()]
    assert beyond_ranks(lora) > 0
    lora.enforce_ranks()
    assert beyond_ranks(lora) == 0
    for layer, (A, B) in zip(lora.layers(), kept, strict=True):
        assert torch.equal(layer.A[0, :1], A[0, :1])
        assert torch.equal(layer.B[0, :, :1], B[0, :, :1])
        assert torch.equal(layer.A[1], A[1])
        assert torch.equal(layer.B[1], B[1])


def test_changing_a_rank_keeps_alpha_and_cuts_the_factors(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 2, 4, 6.0))
    lora.set_rank(1, 3)
    assert lora.ranks.tolist() == [4, 3]
    assert lora.alpha.tolist() == [6.0, 6.0]
    assert lora.scale.tolist() == [1.5, 2.0]
    assert beyond_ranks(lora) == 0
    lora.set_alpha(1, 9.0)
    assert lora.scale.tolist() == [1.5, 3.0]
    with pytest.raises(ValueError, match="expected at most 4"):
        lora.set_rank(0, 5)


def test_scale_is_twice_one_whatever_the_rank(tiny_base):
    lora = StackedLora(tiny_base.model, 2, (1, 5))
    assert lora.alpha.tolist() == [2.0, 10.0]
    assert lora.scale.tolist() == [2.0, 2.0]


def test_agents_that_are_not_finite_are_found(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    list(lora.layers())[-1].A[1, 0, 0] = float("inf")
    list(lora.layers())[3].B[2, 0, 0] = float("nan")
    assert lora.finite().tolist() == [True, False, False]


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
    lora = StackedLora(model, len(dropout), width, float(width), ("layer",), dropout=dropout)
    for layer in lora.layers():
        layer.A[:] = torch.eye(width)
        layer.B[:] = torch.eye(width)
    return model, lora


def test_dropout_zeroes_the_agents_share_and_scales_up_the_rest():
    model, lora = identity_adapters(64, (0.0, 0.25, 0.5))
    x = torch.rand(3 * 40, 5, 64) + 1
    with lora.active(Layout((0, 1, 2), 40), ("step", 1)):
        ratio = (model(x) / x).detach().view(3, -1)
    for seen, rate in zip(ratio, lora.dropout, strict=True):
        dropped = seen == 0
        assert torch.allclose(seen[~dropped], torch.tensor(1 / (1 - rate)), atol=1e-5)
        # 12,800 draws: three standard deviations are below 0.014.
        assert abs(dropped.float().mean().item() - rate) < 0.014 * (rate > 0) + 1e-9


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


# Attaching and detaching


def test_the_base_is_never_written(tiny_base):
    before = hash_of(tiny_base.model)
    names = [name for name, _ in tiny_base.model.named_modules()]
    ids = tiny_base.chat_ids("hello")
    lora = randomise(StackedLora(tiny_base.model, 2, 2))
    logits(tiny_base, lora, torch.tensor([ids, ids]), Layout((0, 1), 1))
    lora.gradient_checkpointing()
    with lora.active(Layout((0,), 1)):
        tiny_base.model(torch.tensor([ids])).logits.sum().backward()
    lora.gradient_checkpointing(False)
    PolicyGradient(tiny_base, lora).step([Sample(0, ids, [1, 2], 1.0)])
    assert hash_of(tiny_base.model) == before
    lora.detach()
    assert hash_of(tiny_base.model) == before
    assert [name for name, _ in tiny_base.model.named_modules()] == names
    assert not any(p.requires_grad for p in tiny_base.model.parameters())


def test_detached_adapters_can_be_attached_again(tiny_base):
    ids = torch.randint(0, 200, (2, 5))
    plain = tiny_base.model(ids).logits
    lora = randomise(StackedLora(tiny_base.model, 2, 2))
    with_adapters = logits(tiny_base, lora, ids, Layout((0, 1), 1))
    for _ in range(2):
        lora.detach()
        assert torch.equal(logits(tiny_base, lora, ids, Layout((0, 1), 1)), plain)
        lora.attach()
        assert torch.equal(logits(tiny_base, lora, ids, Layout((0, 1), 1)), with_adapters)


def test_a_model_carries_one_population(tiny_base):
    lora = StackedLora(tiny_base.model, 2, 2)
    for attach in (lambda: StackedLora(tiny_base.model, 2, 2), lora.attach):
        with pytest.raises(ValueError, match="already carries stacked adapters; detach them first"):
            attach()
    lora.detach()
    other = randomise(StackedLora(tiny_base.model, 1, 2))
    ids = torch.randint(0, 200, (1, 5))
    before = logits(tiny_base, other, ids, Layout((0,), 1))
    lora.detach()  # again: must leave the other population where it is
    assert torch.equal(logits(tiny_base, other, ids, Layout((0,), 1)), before)


def test_a_model_that_carries_peft_adapters_is_refused(tiny_base):
    peft = get_peft_model(tiny_base.model, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"q_proj carries adapters of PEFT; unload\(\) them first"):
        StackedLora(tiny_base.model, 2, 2)
    peft.unload()
    StackedLora(tiny_base.model, 2, 2).detach()


def test_a_detached_population_is_freed(tiny_base):
    lora = StackedLora(tiny_base.model, 2, 2)
    lora.gradient_checkpointing()
    with lora.active(Layout((0,), 1)):
        tiny_base.model(torch.tensor([[1, 2]])).logits.sum().backward()
    factors = weakref.ref(lora.groups[0].A)
    lora.detach()
    del lora
    gc.collect()
    assert factors() is None


def test_no_activation_is_kept_past_a_pass_or_its_failure(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 2, 2))
    attention = tiny_base.model.model.layers[1].self_attn
    seen = []
    attention.q_proj.register_forward_pre_hook(lambda _, args: seen.append(weakref.ref(args[0])))
    ids = torch.tensor([[1, 2], [3, 4]])
    logits(tiny_base, lora, ids, Layout((0, 1), 1))

    def fail(*_):
        raise RuntimeError("interrupted")

    handle = attention.k_proj.base.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        logits(tiny_base, lora, ids, Layout((0, 1), 1))
    handle.remove()
    gc.collect()
    assert [ref() for ref in seen] == [None, None]
    # Nothing of the failed pass is taken for the next one.
    lora.groups[0].A.data.mul_(2)
    again = logits(tiny_base, lora, ids, Layout((0, 1), 1))
    fresh = logits(tiny_base, lora, ids, Layout((0, 1), 1))
    assert torch.equal(again, fresh)


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
    return gradients(lora), len(calls)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("switch", ["ours", "transformers"])
@pytest.mark.parametrize("dropout", [0.0, (0.3, 0.0, 0.5)])
def test_gradient_checkpointing_gives_equal_gradients(tiny_base, switch, inside, dropout):
    lora = own_factors(StackedLora(tiny_base.model, 3, (2, 4, 3), dropout=dropout))
    wanted, calls = two_passes(tiny_base, lora, inside=inside)
    assert calls == 2
    if switch == "ours":
        lora.gradient_checkpointing()
    else:
        tiny_base.model.activation_checkpointing_enable({"use_reentrant": False})
        tiny_base.model.train()
    got, calls = two_passes(tiny_base, lora, inside=inside)
    assert calls == 4  # each pass was recomputed
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert lora._routing.input is None
    assert lora._routing.down == ()


def test_checkpointing_leaves_decoding_and_the_base_alone(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 2, 2))
    ids = torch.randint(0, 200, (2, 5))
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
    lora = own_factors(StackedLora(tiny_base.model, 3, 2))
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


# Arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 0}, "size: got 0, expected at least 1"),
        ({"rank": 0}, "rank: got 0, expected a whole number of at least 1"),
        ({"rank": 2.5}, r"rank: got 2\.5, expected a whole number"),
        ({"rank": (2, 3, 4)}, "rank: got 3 values for 2 agents; give one value, or one per agent"),
        ({"alpha": (1.0, 0.0)}, r"alpha: got 0\.0, expected a finite number above 0"),
        ({"alpha": float("nan")}, "alpha: got nan"),
        ({"dropout": 1.0}, r"dropout: got 1\.0, expected at least 0 and below 1"),
        ({"dropout": (0.1,)}, "dropout: got 1 values for 2 agents"),
        ({"targets": ("nope",)}, "matches no linear layer"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_attached(tiny_base, arguments, said):
    with pytest.raises(ValueError, match=said):
        StackedLora(tiny_base.model, **{"size": 2, "rank": 2, **arguments})
    StackedLora(tiny_base.model, 2, 2)


def test_unknown_agent_in_a_layout(tiny_base):
    lora = StackedLora(tiny_base.model, 2, 2)
    with pytest.raises(ValueError, match="agent 2 is not in"), lora.active(Layout((0, 2), 1)):
        pass


def test_output_layer_is_no_target(tiny_base):
    names = [layer.name for layer in StackedLora(tiny_base.model, 2, 2).layers()]
    assert not any("lm_head" in name for name in names)
    assert len(names) == 2 * 7
