from __future__ import annotations

import gc
import hashlib
import weakref

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from agents.engine.adapters import Layout, StackedLora
from agents.engine.targets import target_linears
from agents.learning.learners import LearnerConfig, PolicyGradient, Sample
from agents.population import LoraPopulation
from tests.agents.helpers import randomise

# PyTorch's layers and PEFT's adapters draw their first weights from the shared generator.
pytestmark = pytest.mark.usefixtures("shared_generators")


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
    ids = torch.randint(0, 200, (6, 9), generator=torch.Generator().manual_seed(0))
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
    population = LoraPopulation(tiny_base, 3, rank, alpha=alpha, targets=targets)
    lora = own_factors(population.lora)
    folders = population.save_adapters(tmp_path)
    ids = torch.randint(0, 200, (6, 11), generator=torch.Generator().manual_seed(1))
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
        tiny_base, 2, 4, alpha=5.0, adapter_dtype=None if adapters is None else "float32"
    )
    lora = randomise(population.lora)
    assert {p.dtype for p in lora.parameters()} == {adapters or torch.bfloat16}
    folders = population.save_adapters(tmp_path)
    ids = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(2))
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


@pytest.mark.slow
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
    lora = own_factors(StackedLora(tiny_base.model, 4, (2, 1, 2, 3), alpha=(1.0, 2.0, 3.0, 4.0)))
    ids = torch.randint(0, 200, (4, 5), generator=torch.Generator().manual_seed(3))
    everyone = logits(tiny_base, lora, ids, Layout((0, 1, 2, 3), 1))
    some = logits(tiny_base, lora, ids[[3, 1]], Layout((3, 1), 1))
    assert relative_error(some, everyone[[3, 1]]) < 1e-5


def test_each_agent_gets_only_its_own_gradient(tiny_base):
    lora = randomise(StackedLora(tiny_base.model, 3, 2))
    ids = torch.randint(0, 200, (3, 5), generator=torch.Generator().manual_seed(4))
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
    lora = randomise(StackedLora(tiny_base.model, 2, 4, alpha=6.0))
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
    ids = torch.randint(0, 200, (2, 5), generator=torch.Generator().manual_seed(5))
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
    ids = torch.randint(0, 200, (1, 5), generator=torch.Generator().manual_seed(6))
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
        ({"targets": ("q_proj", "v_porj")}, "targets: 'v_porj' matches no linear layer"),
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


def test_a_rank_that_no_layer_needs_is_refused_before_anything_is_trained(tiny_base):
    sides = [
        max(layer.in_features, layer.out_features)
        for layer in target_linears(tiny_base.model, "all-linear").values()
    ]
    with pytest.raises(ValueError, match=f"rank: got {min(sides) + 1}, expected at most"):
        StackedLora(tiny_base.model, 1, min(sides) + 1)
    StackedLora(tiny_base.model, 1, min(sides)).detach()
