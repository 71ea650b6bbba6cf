"""The arena in TRL's own trainer: the model calls a tool, and is paid by the episode."""

from __future__ import annotations

from functools import partial

import pytest

from populora_env.interop.trl_environment import SoloEnvironment

SPEC = "procedural:chain_sum(max_terms=2,max_digits=1)"
FACTORY = partial(SoloEnvironment, SPEC, 2, "compare", peers=lambda prompt: "tie", seed=3)


def test_an_episode_is_played_by_replies_and_paid_at_the_end():
    first, second = FACTORY(), FACTORY()
    assert first.reset(seed=5, answer="ignored") == second.reset(seed=5)
    assert first.get_reward() == 0
    first.reply("I do not know.")
    while (asked := first.reply("tie")) != "The episode is over.":
        assert asked
    assert first.reply("7") == "The episode is over."
    assert first.get_reward() == first._solo.transcript.rewards["agent_0"]
    assert second.get_reward() == 0


@pytest.mark.slow
@pytest.mark.usefixtures("shared_generators")
@pytest.mark.filterwarnings("ignore")
def test_the_trainer_calls_the_tool_and_reads_the_reward(tmp_path):
    trl = pytest.importorskip("trl")
    import torch
    from datasets import Dataset
    from trl.chat_template_utils import qwen3_chat_template

    from tests.conftest import make_tiny_base

    base = make_tiny_base()
    tokenizer, model = base.tokenizer, base.model.requires_grad_(True)
    tokenizer.chat_template = qwen3_chat_template
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    model.resize_token_embeddings(len(tokenizer))
    calls = '<tool_call>\n{"name": "reply", "arguments": {"text": "%s"}}\n</tool_call><|im_end|>'
    turns = iter([calls % "It is 7.", *[calls % "tie"] * 8])
    made = []

    def factory():
        made.append(SoloEnvironment(SPEC, 2, "none", peers=lambda prompt: "8", seed=3))
        return made[-1]

    def generate(input_ids, **_):
        told = tokenizer(next(turns), return_tensors="pt", add_special_tokens=False).input_ids
        return torch.cat([input_ids, told.expand(len(input_ids), -1)], dim=1)

    model.generate = generate
    rows = [{"prompt": [{"role": "user", "content": "Play."}], "seed": 5}] * 2
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, num_generations=2,
        max_completion_length=400, report_to=[], use_cpu=True, logging_steps=1, save_strategy="no",
        bf16=False, max_tool_calling_iterations=1,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        environment_factory=factory,
    )  # fmt: skip
    trainer.train()
    played = [env for env in made if env._is_over]
    paid = [env.get_reward() for env in played]
    assert len(paid) == 2
    logged = next(row for row in trainer.state.log_history if "reward" in row)
    assert logged["reward"] == pytest.approx(sum(paid) / 2)
    assert logged["rewards/SoloEnvironment/mean"] == pytest.approx(sum(paid) / 2)
    assert [env._solo.transcript.attempts[0].text for env in made if env._is_over] == [
        "It is 7."
    ] * 2
