from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tokenizers.processors import TemplateProcessing

from agents import FunctionPolicy
from agents.measuring.benchmark import Participant, Sampling, benchmark
from agents.measuring.evaluate import evaluate
from agents.measuring.reply_log import ReplyLog, ReplyLogError
from agents.population import LoraPopulation
from populora_env.problems import SequenceSource
from populora_env.problems.fewshot import prompt_preset
from populora_env.reading.no_reply import NoReply
from populora_env.records import Phase, Problem, Request
from tests.agents.helpers import randomise

PROBLEMS = [Problem.create(f"{n} + 1 =", str(n + 1)) for n in range(4)]
NAMES = ("agent_0", "agent_1", "agent_2")
# What each agent says to each problem; the right answers are 1, 2, 3, 4.
SAYS = {
    "base": ["Answer: 1", "no idea", "so 3 it is", "5"],
    "agent_0": ["Answer: 1", "Answer: 2", "hm, 3 I guess", "Answer: 9"],
    "agent_1": ["Answer: 7", "Answer: 2", "Answer: 8", "Answer: 9"],
    "agent_2": ["Answer: 7", "Answer: 5", "Answer: 3", "Answer: 4"],
}


class Scripted:
    """Says what `SAYS` holds, and counts what it was asked."""

    def __init__(self, stop_after=None):
        self.asked, self.stop_after = [], stop_after

    def act(self, requests):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += requests
        return [SAYS[r.agent][int(r.prompt.split()[0])] for r in requests]


def participants(*weights):
    weights = weights or (None,) * 3
    return [
        Participant("base", apart=True),
        *(Participant(n, weight=w) for n, w in zip(NAMES, weights, strict=True)),
    ]


def test_all_figures_by_hand():
    seen = []
    result = benchmark(
        Scripted(), PROBLEMS, participants(1, 1, 5), task="sums", batch=5,
        progress=lambda *told: seen.append(told),
    )  # fmt: skip
    lenient, strict = result.figures["default"], result.figures["strict"]
    assert list(result.figures) == ["default", "strict"]
    assert result.main is lenient
    right = {name: estimate.value for name, estimate in lenient.accuracy.items()}
    assert right == {"base": 0.5, "agent_0": 0.75, "agent_1": 0.25, "agent_2": 0.5}
    assert strict.accuracy["agent_0"].value == 0.5
    assert lenient.mean.value == pytest.approx(0.5)
    assert lenient.best == "agent_0"
    assert lenient.vote.value == 0.5  # 7, 2, 3, 9
    assert lenient.weighted_vote.value == 0.5  # 7, 5, 3, 4
    assert [e.value for e in lenient.pass_at_k] == pytest.approx(
        [0.5, (2 / 3 + 1 + 1 + 2 / 3) / 4, 1.0]
    )
    assert lenient.pairs == {
        "agent_0|agent_1": 0.5, "agent_0|agent_2": 0.25, "agent_1|agent_2": 0.25
    }  # fmt: skip
    assert strict.agreement == pytest.approx((0.5 + 0 + 0.25) / 3)
    assert seen[0] == ("16 replies to sums", 0)
    assert seen[-1] == ("16 replies to sums", 1)
    assert [row.reply for rows in result.replies["agent_1"] for row in rows] == SAYS["agent_1"]
    data = json.loads(json.dumps(result.to_dict()))
    assert data["rules"]["strict"]["vote"]["value"] == strict.vote.value
    assert data["sampling"] == {
        "temperature": 0.0, "samples": 1, "max_new_tokens": 256, "seed": 0
    }  # fmt: skip


def test_the_name_in_results_need_not_be_the_policys():
    result = benchmark(Scripted(), PROBLEMS, [Participant("mine", "agent_2")])
    assert result.main.accuracy["mine"].value == 0.5


def test_replies_that_never_came_are_asked_for_again(tmp_path):
    log = ReplyLog(tmp_path / "replies.jsonl")
    down = benchmark(FunctionPolicy(lambda prompt: NoReply()), PROBLEMS, ["agent_0"], log=log)
    assert down.main.accuracy["agent_0"].value == 0
    assert len(log) == 0
    up = Scripted()
    benchmark(up, PROBLEMS, ["agent_0"], log=log)
    assert len(up.asked) == len(log) == len(PROBLEMS)


def test_cut_off_and_gone_on_asks_nothing_twice(tmp_path):
    file = tmp_path / "replies.jsonl"
    whole = benchmark(Scripted(), PROBLEMS, participants(), task="sums")
    first = Scripted(stop_after=6)
    with pytest.raises(KeyboardInterrupt):
        benchmark(first, PROBLEMS, participants(), task="sums", log=ReplyLog(file), batch=3)
    assert len(ReplyLog(file)) == 6
    second = Scripted()
    rest = benchmark(second, PROBLEMS, participants(), task="sums", log=ReplyLog(file), batch=3)
    assert len(second.asked) == 10
    assert not {(r.agent, r.prompt) for r in first.asked} & {
        (r.agent, r.prompt) for r in second.asked
    }
    assert rest.to_dict() == whole.to_dict()
    third = Scripted()
    benchmark(third, PROBLEMS, participants(), task="sums", log=ReplyLog(file))
    assert third.asked == []


def test_more_problems_and_agents_go_on_from_fewer(tmp_path):
    file = tmp_path / "replies.jsonl"
    benchmark(Scripted(), PROBLEMS[:2], ["agent_0"], log=ReplyLog(file))
    policy = Scripted()
    benchmark(policy, PROBLEMS[:3], ["agent_0", "agent_1"], log=ReplyLog(file))
    assert len(policy.asked) == 4


def test_changed_weights_or_limits_are_refused(tmp_path):
    file = tmp_path / "replies.jsonl"
    who = Participant("agent_0", content="old")
    benchmark(Scripted(), PROBLEMS, [who], log=ReplyLog(file))
    with pytest.raises(ReplyLogError, match="other weights"):
        benchmark(Scripted(), PROBLEMS, [replace(who, content="new")], log=ReplyLog(file))
    with pytest.raises(ReplyLogError, match="other max_new_tokens"):
        benchmark(
            Scripted(), PROBLEMS, [who], log=ReplyLog(file), sampling=Sampling(max_new_tokens=3)
        )
    with pytest.raises(ReplyLogError, match="other sampling"):
        benchmark(
            Scripted(), PROBLEMS, [who], log=ReplyLog(file), sampling=Sampling(temperature=1.0)
        )
    # Another prompt or task is another key, not a contradiction.
    benchmark(Scripted(), PROBLEMS, [who], log=ReplyLog(file), preset="chat-v1")
    assert len(ReplyLog(file)) == 8


def test_samples_have_seeds_of_their_own():
    policy = Scripted()
    result = benchmark(policy, PROBLEMS, NAMES, sampling=Sampling(temperature=1.0, samples=3))
    assert len({r.seed for r in policy.asked}) == 36
    assert len(result.main.pass_at_k) == 9
    assert [len(rows) for rows in result.replies["agent_0"]] == [3] * 4
    again = Scripted()
    benchmark(again, PROBLEMS, NAMES, sampling=Sampling(temperature=1.0, samples=3, seed=1))
    assert {r.seed for r in policy.asked}.isdisjoint(r.seed for r in again.asked)


def test_a_reply_ends_at_the_presets_stop():
    examples = SequenceSource(
        [Problem.create(f"q{n}", "1", metadata={"solution": "one"}) for n in range(9)]
    )
    policy = FunctionPolicy(lambda prompt: " 1\n#### 1\n\nQuestion: 2 + 2?\nAnswer: #### 4")
    result = benchmark(policy, PROBLEMS[:1], preset="gsm8k-8shot-v1", examples=examples)
    assert list(result.figures) == ["gsm8k-flexible", "gsm8k-strict", "default", "strict"]
    assert all(entry.mean.value == 1 for entry in result.figures.values())
    assert "Question" not in result.replies["agent_0"][0][0].reply


def test_no_reply_breaks_it():
    for text in ("", "\ud800", "\x00" * 9, "9" * 5000):
        result = benchmark(FunctionPolicy(lambda prompt, text=text: text), PROBLEMS[:1])
        assert result.main.mean.value == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problems": []}, "problems: got none"),
        ({"problems": [Problem.create("?")]}, "has no known answer"),
        ({"problems": PROBLEMS[:1] * 2}, "is there twice; use distinct"),
        ({"participants": []}, "at least one that is not apart"),
        ({"participants": [Participant("base", apart=True)]}, "at least one that is not apart"),
        ({"participants": ["agent_0", "agent_0"]}, "expected different names"),
        ({"batch": 0}, "batch: got 0"),
        ({"preset": "nope"}, "prompt: got 'nope'"),
        (
            {"preset": replace(prompt_preset("arena-v1"), extractions=("mine",))},
            "names the extraction 'mine', expected one of default",
        ),
    ],
)
def test_what_cannot_be_measured(changes, said):
    given = {"problems": PROBLEMS, "participants": NAMES, **changes}
    with pytest.raises(ValueError, match=said):
        benchmark(Scripted(), **given)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"temperature": -1.0}, "temperature: got -1.0"),
        ({"temperature": float("nan")}, "temperature: got nan"),
        ({"samples": 0}, "samples: got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
        ({"samples": 2}, "samples: got 2 at temperature 0, expected 1"),
    ],
)
def test_sampling_is_checked(values, said):
    with pytest.raises(ValueError, match=said):
        Sampling(**values)


def test_a_population_is_told_how_to_decode(tiny_base):
    population = LoraPopulation(tiny_base, 2, 2, temperature=1.0)
    randomise(population.lora)
    raw = replace(prompt_preset("arena-v1"), name="raw-v1", raw=True)
    who = [Participant("base", apart=True), *population.agents]
    for preset in (prompt_preset("arena-v1"), raw):
        result = benchmark(
            population, PROBLEMS[:2], who, preset=preset, sampling=Sampling(max_new_tokens=6)
        )
        for name, rows in result.replies.items():
            for problem, (row,) in zip(PROBLEMS, rows, strict=False):
                request = Request(name, Phase.SOLVE, preset.ask(problem), 6, 0)
                wanted = population.act([request], temperature=0.0, raw=preset.raw)
                assert [row.reply] == wanted
    drawn = benchmark(
        population, PROBLEMS[:1], population.agents,
        sampling=Sampling(temperature=1.0, samples=4, max_new_tokens=6),
    )  # fmt: skip
    assert len({row.reply for row in drawn.replies["agent_0"][0]}) > 1


@pytest.mark.parametrize("weight", [None, -1.0, float("nan")])
def test_weights_are_checked_before_anybody_is_asked(weight):
    who = [Participant("agent_0", weight=0.5), Participant("agent_1", weight=weight)]
    policy = Scripted()
    with pytest.raises(ValueError, match=r"agent_1: weight: got .*expected a number >= 0"):
        benchmark(policy, PROBLEMS, who)
    assert policy.asked == []


def test_a_population_that_changed_gets_no_old_replies(tiny_base):
    population, log = LoraPopulation(tiny_base, 2, 2), ReplyLog()
    sampling = Sampling(max_new_tokens=3)
    asked = dict(task="sums", log=log, sampling=sampling)
    first = benchmark(population, PROBLEMS[:2], population.agents, **asked)
    held = len(log)
    again = benchmark(population, PROBLEMS[:2], population.agents, **asked)
    assert again.to_dict() == first.to_dict()
    assert len(log) == held == 4
    next(population.lora.layers()).B[0] += 1
    with pytest.raises(ReplyLogError, match="agent_0 to sums with other weights"):
        benchmark(population, PROBLEMS[:2], population.agents, **asked)
    population.lora.detach()


def test_a_raw_prompt_has_no_template_and_one_opening_token(tiny_base):
    tokenizer = tiny_base.tokenizer
    plain = tokenizer("2 + 2 =", add_special_tokens=False)["input_ids"]
    assert tiny_base.text_ids("2 + 2 =") == plain
    opening, closing = tokenizer.convert_tokens_to_ids(["<user>", "<agent>"])
    assert tiny_base.chat_ids("2 + 2 =") == [opening, *plain, closing]
    tokenizer.bos_token = "<user>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<user> $A", special_tokens=[("<user>", opening)]
    )
    assert tiny_base.text_ids("2 + 2 =") == [opening, *plain]
    assert tiny_base.text_ids("<user>2 + 2 =") == [opening, *plain]
    assert tiny_base.text_ids("\ud800") == tiny_base.text_ids("?")


class Teller:
    """A policy that tells its replies last to first, and is cut off after some of them."""

    def __init__(self, cut_at=None):
        self.cut_at = cut_at

    def decoding(self, *, temperature, raw):
        return self

    def act(self, requests):
        raise AssertionError("tells its replies")

    def act_telling(self, requests, done):
        for told, place in enumerate(reversed(range(len(requests)))):
            if told == self.cut_at:
                raise KeyboardInterrupt
            done(place, f"Answer: {place}")
        return [f"Answer: {place}" for place in range(len(requests))]


def test_replies_reach_the_disk_as_they_are_told(tmp_path):
    problems = [Problem.create(f"problem {i}", str(i)) for i in range(30)]
    log = ReplyLog(tmp_path / "replies.jsonl")
    with pytest.raises(KeyboardInterrupt):
        benchmark(Teller(cut_at=19), problems, log=log)
    assert len(ReplyLog(tmp_path / "replies.jsonl")) == 19
    result = benchmark(Teller(), problems[11:], log=ReplyLog(tmp_path / "replies.jsonl"))
    assert result.main.accuracy["agent_0"].value == 1.0
    assert len(ReplyLog(tmp_path / "replies.jsonl")) == 19


class Says:
    """Says what a mapping holds for each agent."""

    def __init__(self, texts):
        self.texts = texts

    def act(self, requests):
        return [self.texts[request.agent] for request in requests]


ROOT = Problem.create("x = ?", r"2\sqrt3", "math")
ROOTS = {
    "agent_0": r"\boxed{\sqrt{12}}",
    "agent_1": r"\boxed{2\sqrt{3}}",
    "agent_2": r"\boxed{5}",
    "agent_3": r"\boxed{5}",
    "agent_4": r"\boxed{\frac{10}{2}}",
    "base": r"\boxed{5}",
}


@pytest.mark.parametrize(
    ("agents", "vote"),
    [
        ((0, 1, 2, 3), 0.5),
        pytest.param((0, 1, 2), 1.0, marks=pytest.mark.slow),
        pytest.param((0, 1, 2, 3, 4), 0.0, marks=pytest.mark.slow),
    ],
)
def test_answers_equal_in_value_vote_together(agents, vote):
    names = [f"agent_{n}" for n in agents]
    who = [Participant("base", apart=True), *map(Participant, names)]
    found = benchmark(Says(ROOTS), [ROOT], who).main
    assert found.vote.value == vote
    assert found.changes.base == "base"
    assert found.changes.vote.value == vote
    assert found.changes.accuracy["agent_1"].value == 1
    assert found.pairs["agent_0|agent_1"] == 1
    measured = evaluate(Says(ROOTS), [ROOT], agents=names)
    assert (measured.vote, measured.votes) == (vote, (vote,))


@pytest.mark.slow
def test_wrong_answers_equal_in_value_vote_together_too():
    problem = Problem.create("x = ?", "7", "math")
    found = benchmark(
        Says({**ROOTS, "agent_4": r"\boxed{7}"}),
        [problem],
        ["agent_0", "agent_1", "agent_4"],
    ).main
    assert found.vote.value == 0  # 1/3 if the two roots were two opinions
    assert found.pairs["agent_0|agent_1"] == 1
    assert found.agreement == pytest.approx(1 / 3)
