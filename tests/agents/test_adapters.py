from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from agents.adapters import Layout, StackedLora
from agents.population import LoraPopulation
from tests.agents.helpers import randomise


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


def logits(base, lora, ids, layout):
    with torch.no_grad(), lora.active(layout):
        return base.model(ids).logits


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
def test_population_forward_equals_each_adapter_alone_in_peft(tiny_base, tmp_path, targets):
    population = LoraPopulation(tiny_base, 3, 4, targets=targets)
    randomise(population.lora)
    population.lora.set_alpha(1, 3.0)
    folders = population.save_adapters(tmp_path)
    ids = torch.randint(0, 200, (6, 11))
    ours = logits(tiny_base, population.lora, ids, Layout((0, 1, 2), 2))
    population.lora.detach()
    plain = tiny_base.model
    base_logits = plain(ids).logits.detach()
    for agent, folder in enumerate(folders):
        peft = PeftModel.from_pretrained(plain, folder)
        rows = slice(2 * agent, 2 * agent + 2)
        with torch.no_grad():
            theirs = peft(ids[rows]).logits
        plain = peft.unload()
        assert relative_error(ours[rows], theirs) <= 1e-5
        assert relative_error(ours[rows], base_logits[rows]) > 1e-2


def test_real_model_forward_equals_plain_peft(smollm, tmp_path):
    population = LoraPopulation(smollm, 2, 4)
    randomise(population.lora, 0.02)
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
    lora = randomise(StackedLora(tiny_base.model, 4, 2))
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


def test_detach_restores_the_model(tiny_base):
    names = [name for name, _ in tiny_base.model.named_modules()]
    lora = StackedLora(tiny_base.model, 2, 2)
    with pytest.raises(ValueError, match="already carries"):
        StackedLora(tiny_base.model, 2, 2)
    lora.detach()
    assert [name for name, _ in tiny_base.model.named_modules()] == names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((0, 4), "size and rank"), ((2, 0), "size and rank"), ((2, 2, None, ("nope",)), "matches no")],
)
def test_bad_arguments_are_named(tiny_base, arguments, said):
    with pytest.raises(ValueError, match=said):
        StackedLora(tiny_base.model, *arguments)


def test_unknown_agent_in_a_layout(tiny_base):
    lora = StackedLora(tiny_base.model, 2, 2)
    with pytest.raises(ValueError, match="agent 2 is not in"), lora.active(Layout((0, 2), 1)):
        pass


def test_output_layer_is_no_target(tiny_base):
    names = [layer.name for layer in StackedLora(tiny_base.model, 2, 2).layers()]
    assert not any("lm_head" in name for name in names)
    assert len(names) == 2 * 7
