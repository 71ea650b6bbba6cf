from __future__ import annotations

import random
from dataclasses import replace

import pytest

from populora_env.grading.extraction import EXTRACTIONS
from populora_env.problems import SequenceSource
from populora_env.problems.fewshot import PRESETS, Draw, PromptError, PromptPreset, prompt_preset
from populora_env.prompts import solve_prompt
from populora_env.records import AnswerKind, Problem

DATA = "POPULORA_DATA"


def word_problem(number, solution=True):
    text = f"Half is <<{number}/2={number / 2}>>. So {number}.\n#### {number}"
    return Problem.create(
        f"How many, number {number}?", str(number), metadata={"solution": text} if solution else {}
    )


EXAMPLES = SequenceSource([word_problem(n) for n in range(20)], "examples")
ASKED = [word_problem(n) for n in (100, 200)]
FORMULA = Problem.create("Expand.", "x^2", AnswerKind.MATH)


def test_every_preset_is_usable():
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert name.rpartition("-v")[2].isdigit()
        assert set(preset.extractions) <= set(EXTRACTIONS)
        assert preset.about
        assert bool(preset.shots) == bool(preset.shots_from) == preset.raw
    with pytest.raises(PromptError, match=r"prompt: got 'best', expected one of arena-v1, chat-v1"):
        prompt_preset("best")


def test_the_arena_preset_is_the_arenas_prompt():
    preset = prompt_preset("arena-v1")
    assert preset.prompts([*ASKED, FORMULA]) == [solve_prompt(p) for p in [*ASKED, FORMULA]]
    assert not preset.raw


def test_chat_asks_in_the_form_that_is_read_best():
    chat = prompt_preset("chat-v1")
    text = Problem.create("Which town?", "Rome", AnswerKind.TEXT)
    number, formula, town = chat.prompts([ASKED[0], FORMULA, text])
    assert "####" in number
    assert r"\boxed{}" in formula
    assert "Answer: " in town


def test_eight_shots_and_then_the_problem():
    prompt = prompt_preset("gsm8k-8shot-v1").prompts(ASKED, EXAMPLES)[0]
    parts = prompt.split("\n\n")
    assert len(parts) == 9
    assert parts[0] == "Question: How many, number 0?\nAnswer: Half is . So 0.\n#### 0"
    assert parts[-1] == "Question: How many, number 100?\nAnswer:"


def test_shots_are_drawn_as_the_harness_draws_them():
    prompts = prompt_preset("gsm8k-5shot-v1").prompts(ASKED, EXAMPLES)
    rng = random.Random(1234)
    for prompt, problem in zip(prompts, ASKED, strict=True):
        shots = [EXAMPLES[i] for i in rng.sample(range(20), 5)]
        wanted = [f"Question: {s.prompt}\nAnswer: {s.metadata['solution']}" for s in shots]
        assert prompt.split("\n\n") == [*wanted, f"Question: {problem.prompt}\nAnswer:"]


def test_a_problem_is_no_example_for_itself():
    preset = replace(prompt_preset("gsm8k-8shot-v1"), shots=2)
    for prompt, shown in zip(
        preset.prompts([EXAMPLES[0], EXAMPLES[5]], EXAMPLES), ((1, 2), (0, 1)), strict=True
    ):
        assert [part.split("?")[0].split()[-1] for part in prompt.split("\n\n")[:-1]] == [
            str(number) for number in shown
        ]


def test_a_placeholder_in_a_problem_stays():
    odd = Problem.create("{problem} {answer}", "1", metadata={"solution": "{problem} #### 1"})
    preset = replace(prompt_preset("gsm8k-8shot-v1"), shots=1)
    source = SequenceSource([odd, ASKED[1]])
    assert preset.prompts([ASKED[0]], source)[0].startswith(
        "Question: {problem} {answer}\nAnswer: {problem} #### 1\n\n"
    )


def test_a_solution_without_its_answer_gets_it():
    bare = Problem.create("Six?", "6", metadata={"solution": "It is six."})
    preset = replace(prompt_preset("gsm8k-5shot-v1"), shots=1, draw=Draw.FIRST)
    prompt = preset.prompts([ASKED[0]], SequenceSource([bare, ASKED[1]]))[0]
    assert "Answer: It is six.\n#### 6\n\n" in prompt


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (" 4\n#### 4\n\nQuestion: next", " 4\n#### 4\n\n"),
        ("4</s>Question:", "4"),
        ("Question: 4</s>", ""),
        ("no stop", "no stop"),
    ],
)
def test_replies_end_at_the_first_stop(reply, kept):
    assert prompt_preset("gsm8k-8shot-v1").cut(reply) == kept
    assert prompt_preset("chat-v1").cut(reply) == reply


def test_what_cannot_be_asked_is_said_in_a_line(monkeypatch, tmp_path):
    shots = prompt_preset("gsm8k-8shot-v1")
    with pytest.raises(PromptError, match=r"is for answers of kind number, but .* has kind math"):
        shots.prompts([FORMULA], EXAMPLES)
    few = SequenceSource([word_problem(n) for n in range(8)], "few")
    with pytest.raises(PromptError, match="needs more than 8 worked examples, got 8 from few"):
        shots.prompts(ASKED, few)
    bare = SequenceSource([word_problem(n, solution=False) for n in range(9)])
    with pytest.raises(PromptError, match="has no worked solution"):
        shots.prompts(ASKED, bare)
    monkeypatch.setenv(DATA, str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PromptError, match=r"training split of math, which cannot be loaded") as e:
        prompt_preset("math-4shot-v1").prompts([FORMULA])
    assert "\n" not in str(e.value)
    assert "use chat-v1" in str(e.value)


def test_examples_come_from_the_named_training_split(monkeypatch):
    asked = []

    def load(spec, *, split):
        asked.append((spec, split))
        return EXAMPLES

    monkeypatch.setattr("populora_env.problems.fewshot.load_problems", load)
    prompt_preset("gsm8k-8shot-v1").prompts(ASKED)
    assert asked == [("gsm8k", "train")]
    assert PromptPreset("x-v1", "").prompts([]) == []
