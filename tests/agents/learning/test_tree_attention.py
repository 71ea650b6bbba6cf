"""Learning with compiled attention of packed rows, against the same under a mask."""

from __future__ import annotations

import pytest
import torch

from agents.compiled.trees.attention import library
from agents.engine.adapters import StackedLora
from agents.learning import learners, tree_attention
from agents.learning.learners import LearnerConfig, PolicyGradient, Sample
from agents.learning.tree_attention import attends_by_tree
from tests.agents.engine.test_compiled_pass import FAMILIES, made
from tests.agents.helpers import randomise

pytestmark = [
    pytest.mark.skipif(library() is None, reason="no compiled code here"),
    pytest.mark.usefixtures("shared_generators"),
]


def samples_of(base):
    replies = ("yes", "yes, 4", "no", "nobody knows", "4")
    return [
        Sample(agent, base.chat_ids(f"{prompt} and {agent + 7}?"), base.text_ids(reply), sign)
        for agent in range(3)
        for prompt in ("One more", "One", "Some other question, longer than that,")
        for reply, sign in zip(replies, (1.0, -0.5, 2.0, -1.0, 0.3), strict=True)
    ]  # fmt: skip


def gradients(base, monkeypatch, *, tree, samples=None, checkpointing=False, **settings):
    """Each factor's gradient after one step, and the attention that every layer was asked for."""
    asked = []
    with monkeypatch.context() as patch:
        if not tree:
            for module in (learners, tree_attention):
                patch.setattr(module, "attends_by_tree", lambda *_: False)
        lora = randomise(StackedLora(base.model, 3, (2, 3, 1)))
        lora.gradient_checkpointing(checkpointing)
        hook = base.model.model.layers[0].self_attn.register_forward_pre_hook(
            lambda module, *_: asked.append(module.config._attn_implementation)
        )
        learner = PolicyGradient(base, lora, LearnerConfig(**settings))
        patch.setattr(learner.optimizer, "step", lambda agents: torch.zeros(3))
        learner.step(samples or samples_of(base))
        found = [parameter.grad.clone() for parameter in lora.parameters()]
        hook.remove()
        lora.detach()
    return found, set(asked)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [100, 2048])
def test_gradients_are_those_under_a_mask(family, tokens, monkeypatch):
    base = made(family)
    if family == "mistral":
        base.model.config.sliding_window = None
    before = base.model.config._attn_implementation
    got, by = gradients(base, monkeypatch, tree=True, tokens_per_batch=tokens, kl=0.1)
    wanted, masked = gradients(base, monkeypatch, tree=False, tokens_per_batch=tokens, kl=0.1)
    assert (by, masked) == ({"populora_tree"}, {before})
    assert base.model.config._attn_implementation == before
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-4 * float(theirs.abs().max()))


def test_recomputed_layers_attend_the_same(monkeypatch):
    base = made()
    got, by = gradients(base, monkeypatch, tree=True, checkpointing=True)
    wanted, _ = gradients(base, monkeypatch, tree=True)
    assert by == {"populora_tree"}
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_sliding_windows_that_hide_something_attend_under_a_mask(monkeypatch):
    base = made("mistral", sliding_window=200)
    assert attends_by_tree(base, 200)
    assert not attends_by_tree(base, 201)
    base.model.config.sliding_window = 20
    _, by = gradients(base, monkeypatch, tree=True)
    assert by == {base.model.config._attn_implementation} != {"populora_tree"}


def test_other_models_attend_as_ever(monkeypatch):
    for narrow in (made(head_dim=4), made()):
        if narrow.model.config.head_dim == 16:
            narrow.model.to(torch.bfloat16)
        assert not attends_by_tree(narrow, 10)
    base = made()
    assert attends_by_tree(base, 10)
    monkeypatch.setattr(tree_attention, "library", lambda: None)
    assert not attends_by_tree(base, 10)


def test_a_step_that_fails_leaves_the_model_as_it_was(monkeypatch):
    base = made()
    before = base.model.config._attn_implementation
    monkeypatch.setattr(torch.Tensor, "backward", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        gradients(base, monkeypatch, tree=True)
    assert base.model.config._attn_implementation == before
