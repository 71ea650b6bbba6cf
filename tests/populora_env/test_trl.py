"""Judges and rewards on their way to TRL and back, and TRL's own trainer with our grader."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from populora_env.grading import Grader
from populora_env.judges import Judge, ask
from populora_env.records import Comparison, Preference, Problem, ReplyStatus, Verdict
from populora_env.trl import FromTrlJudge, FromTrlReward, RewardFunction, ToTrlJudge

PROBLEM = Problem.create("1 + 1 =", "2")
PAIR = Comparison(PROBLEM, "2", "3")


def chat(*said):
    roles = ["system", "user", "assistant"]
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]


class Pairwise:
    """A judge as TRL's users write them."""

    def __init__(self, returned):
        self.returned, self.calls = returned, []

    def judge(self, prompts, completions, shuffle_order=True):
        self.calls.append((prompts, completions, shuffle_order))
        if isinstance(self.returned, Exception):
            raise self.returned
        return self.returned


class Prefers:
    """Our judge that prefers by a function of two attempts, and notes what it saw."""

    def __init__(self, prefer):
        self.prefer, self.seen = prefer, []

    def judge(self, comparisons):
        self.seen += [(entry.problem.prompt, entry.first, entry.second) for entry in comparisons]
        return [self.prefer(entry.first, entry.second) for entry in comparisons]


def longer(first, second):
    if len(first) == len(second):
        return Verdict(Preference.TIE)
    return Verdict(Preference.A if len(first) > len(second) else Preference.B)


def test_nothing_of_trl_is_imported():
    code = "import populora_env.trl, sys; sys.exit(bool({'trl', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("index", "preference"),
    [
        (0, Preference.A),
        (1, Preference.B),
        (np.int64(1), Preference.B),
        *[(index, None) for index in (-1, 2, True, 0.0, "0", None, [0])],
    ],
)
def test_a_trl_judge_judges(index, preference):
    theirs = Pairwise([index])
    judge = FromTrlJudge(theirs)
    assert isinstance(judge, Judge)
    judgement = ask(judge, [PAIR])
    status = ReplyStatus.OK if preference else ReplyStatus.FAILED
    assert judgement.verdicts == (Verdict(preference, status),)
    assert theirs.calls == [(["1 + 1 ="], [["2", "3"]], False)]


@pytest.mark.parametrize("returned", [[0], [0, 1, 1], None, 0, OSError("gone")])
def test_a_trl_judge_that_breaks_its_promise_is_counted(returned):
    judgement = ask(FromTrlJudge(Pairwise(returned)), [PAIR, PAIR])
    assert judgement.failures == 2
    assert [verdict.preference for verdict in judgement.verdicts] == [None, None]


@pytest.mark.parametrize("adapter", [FromTrlJudge, ToTrlJudge])
def test_what_is_no_judge_is_named(adapter):
    with pytest.raises(TypeError, match="judge must have a method judge, got int"):
        adapter(3)


def test_our_judge_gives_indices():
    judge = ToTrlJudge(Prefers(longer))
    pairs = [["aa", "b"], ["a", "bb"], ["a", "b"]]
    assert judge.judge(["p"] * 3, pairs, shuffle_order=False) == [0, 1, -1]
    abstains = ToTrlJudge(Prefers(lambda *_: Verdict(None, ReplyStatus.UNREADABLE)))
    assert abstains.judge(["p"], [["a", "b"]]) == [-1]
    assert abstains.failures == 0
    assert judge.judge([], []) == []


def test_the_order_is_shuffled_by_the_seed_and_mapped_back():
    prompts = [f"p{i}" for i in range(40)]
    pairs = [["good" if i % 3 else "x", "x" if i % 3 else "good"] for i in range(40)]
    expected = [0 if i % 3 else 1 for i in range(40)]

    def shown(seed, **options):
        ours = Prefers(longer)
        assert ToTrlJudge(ours, seed=seed).judge(prompts, pairs, **options) == expected
        return [(first, second) for _, first, second in ours.seen]

    turned = [seen != tuple(pair) for seen, pair in zip(shown(0), pairs, strict=True)]
    assert 5 < sum(turned) < 35
    assert shown(0) == shown(0) != shown(1)
    assert shown(0, shuffle_order=False) == [tuple(pair) for pair in pairs]
    # each pair's order is its own: it does not depend on what else is in the batch
    alone = Prefers(longer)
    ToTrlJudge(alone).judge(prompts[7:8], pairs[7:8])
    assert alone.seen[0][1:] == shown(0)[7]


def test_a_first_position_judge_is_no_longer_biased():
    judge = ToTrlJudge(Prefers(lambda *_: Verdict(Preference.A)))
    indices = judge.judge([f"p{i}" for i in range(60)], [["x", "y"]] * 60)
    assert 10 < sum(indices) < 50


def test_chats_are_shown_as_texts():
    ours = Prefers(longer)
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "look"}]}]
    prompts = [chat("only"), chat("be short", "1 + 1 ="), parts, "a\ud800"]
    pairs = [[chat("s", "u", "good"), chat("s", "u", "x")], [[], "z"], ["a", "b"], ["a", "b"]]
    ToTrlJudge(ours).judge(prompts, pairs, shuffle_order=False)
    assert ours.seen == [
        ("only", "good", "x"),
        ("system: be short\n\nuser: 1 + 1 =", "", "z"),
        ("look", "a", "b"),
        ("a\ufffd", "a", "b"),
    ]


def test_a_judge_that_raises_is_minus_one_for_all():
    judge = ToTrlJudge(Pairwise(OSError("no route")))  # our protocol calls it with one argument
    assert judge.judge(["p", "q"], [["a", "b"]] * 2) == [-1, -1]
    assert judge.failures == 2
    assert "raised" in judge.last_error


@pytest.mark.parametrize(
    ("prompts", "completions", "error", "said"),
    [
        (["p"], [], ValueError, "one pair for each of 1 prompts, got 0"),
        (["p"], [["a"]], ValueError, "completions must be pairs, got 1"),
        (["p"], ["ab"], ValueError, "completions must be pairs"),
        ([3], [["a", "b"]], TypeError, "prompts must be texts or lists of messages, got int"),
        (["p"], [["a", 3]], TypeError, "completions must be texts or lists of messages, got int"),
        (["p"], [["a", ["b"]]], TypeError, "completions must be texts or lists of messages"),
    ],
)
def test_wrong_pairs_are_named(prompts, completions, error, said):
    with pytest.raises(error, match=said):
        ToTrlJudge(Prefers(longer)).judge(prompts, completions)


def test_there_and_back_again():
    back = FromTrlJudge(ToTrlJudge(Prefers(longer)))
    verdicts = back.judge([Comparison(PROBLEM, "aa", "b"), Comparison(PROBLEM, "a", "bb")])
    assert [verdict.preference for verdict in verdicts] == [Preference.A, Preference.B]


def test_our_grader_rewards_completions():
    with RewardFunction(right=2.0, wrong=-1.0) as reward:
        completions = ["The answer is 4.", "5", "", chat("s", "u", "#### 4"), "4", "4", "0.5"]
        answers = ["4", "4", "4", 4, None, math.nan, np.float64(0.5)]
        got = reward(prompts=["p"] * 7, completions=completions, answer=answers, other=[1] * 7)
        assert got == [2.0, -1.0, -1.0, 2.0, None, None, 2.0]
        assert reward(completions=[], answer=[]) == []
        assert reward.__name__ == "correctness"


def test_answers_may_be_worked_solutions():
    with RewardFunction() as reward:
        answers = ["2 + 2 = <<2+2=4>>4 eggs\n#### 4", r"so \boxed{5}"]
        assert reward(completions=["#### 4", "#### 4"], answer=answers) == [1.0, 0.0]


@pytest.mark.parametrize("kind", ["math", "text"])
def test_worked_solutions_are_read_whatever_the_kind(kind):
    answers = ["2 + 2 = 4 eggs\n#### 4", r"We add, so \boxed{5}.", "4"]
    with RewardFunction(answer_kind=kind) as reward:
        assert reward(completions=["#### 4"] * 3, answer=answers) == [1.0, 0.0, 1.0]


@pytest.mark.slow
def test_other_columns_and_kinds_of_answers():
    reward = RewardFunction(answer_column="capital", answer_kind="text")
    assert reward(completions=["Answer: paris", "Rome"], capital=["Paris", "Oslo"]) == [1.0, 0.0]
    with RewardFunction(answer_kind="math") as math_reward:
        assert math_reward(completions=["$x + x$", "$x$"], answer=["2x", "2x"]) == [1.0, 0.0]


def test_only_a_grader_of_its_own_is_closed(monkeypatch):
    closed = []
    monkeypatch.setattr(Grader, "close", lambda self: closed.append(self))
    given = Grader()
    RewardFunction(given).close()
    assert closed == []
    with RewardFunction():
        pass
    assert len(closed) == 1
    assert closed != [given]


@pytest.mark.parametrize(
    ("columns", "error", "said"),
    [
        (
            {"solution": ["2"], "hint": [""], "trainer_state": object()},
            ValueError,
            "the column 'answer' is missing, the columns are: hint, solution; set answer_column",
        ),
        ({}, ValueError, "the columns are: none"),
        ({"answer": ["1", "2"]}, ValueError, "must hold 1 answers, .* got 2"),
        ({"answer": [["1"]]}, TypeError, "must hold texts, numbers or None, got list in row 0"),
        ({"answer": [True]}, TypeError, "got bool in row 0"),
        ({"answer": ["nobody knows"]}, ValueError, "of the kind number, got .* in row 0"),
    ],
)
def test_a_wrong_column_is_named(columns, error, said):
    with pytest.raises(error, match=said) as caught:
        RewardFunction()(prompts=["p"], completions=["1"], **columns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"answer_kind": "nmber"}, "answer_kind must be one of"),
        ({"right": math.nan}, "right must be a finite reward"),
        ({"wrong": math.inf}, "wrong must be a finite reward"),
    ],
)
def test_wrong_settings_of_a_reward_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        RewardFunction(**settings)


def test_a_reward_function_judges():
    calls = []

    def length(completions, **columns):
        calls.append((completions, columns))
        rewards = {"none": None, "nan": math.nan, "word": "high"}
        return [rewards.get(text, len(text)) for text in completions]

    judge = FromTrlReward(length, answer_column="solution")
    assert isinstance(judge, Judge)
    unknown = Problem.create("?", None)
    comparisons = [
        Comparison(PROBLEM, "aa", "b"),
        Comparison(PROBLEM, "b", "aa"),
        Comparison(unknown, "b", "c"),
        Comparison(PROBLEM, "none", "b"),
        Comparison(PROBLEM, "b", "nan"),
        Comparison(PROBLEM, "word", "b"),
    ]
    verdicts = judge.judge(comparisons)
    assert [verdict.preference for verdict in verdicts] == [
        Preference.A, Preference.B, Preference.TIE, None, None, None,
    ]  # fmt: skip
    assert {verdict.status for verdict in verdicts[3:]} == {ReplyStatus.FAILED}
    ((completions, columns),) = calls
    assert completions == ["aa", "b", "b", "c", "none", "nan", "word"]  # each once for a problem
    assert columns["prompts"] == ["1 + 1 ="] * 2 + ["?"] * 2 + ["1 + 1 ="] * 3
    assert columns["solution"] == ["2"] * 2 + [None] * 2 + ["2"] * 3


def test_a_reward_function_may_want_chats_and_no_answers():
    seen = {}

    def notes(**columns):
        seen.update(columns)
        return [0.0, math.inf]

    (verdict,) = FromTrlReward(notes, answer_column=None, chat=True).judge([PAIR])
    assert verdict.preference is Preference.B
    assert seen == {
        "prompts": [[{"role": "user", "content": "1 + 1 ="}]] * 2,
        "completions": [[{"role": "assistant", "content": text}] for text in "23"],
    }


def test_our_own_reward_function_judges():
    with RewardFunction() as reward:
        (verdict,) = FromTrlReward(reward).judge([PAIR])
    assert verdict.preference is Preference.A


def test_a_reward_function_that_breaks_its_promise_is_counted():
    def raises(**_):
        raise OSError("gone")

    for function, said in ((raises, "OSError: gone"), (lambda **_: [1.0], "return 2 rewards")):
        judgement = ask(FromTrlReward(function), [PAIR])
        assert judgement.failures == 1
        assert said in judgement.error


def test_what_is_no_reward_function_is_named():
    async def later(**_):
        return [0.0]

    class Later:
        async def __call__(self, **_):
            return [0.0]

    for function in (later, Later()):
        with pytest.raises(TypeError, match="must not be asynchronous"):
            FromTrlReward(function)
    with pytest.raises(TypeError, match="function must be callable, got int"):
        FromTrlReward(3)


def test_trls_own_reward_judges():
    pytest.importorskip("trl")
    from trl.rewards import accuracy_reward

    judge = FromTrlReward(accuracy_reward, answer_column="solution", chat=True)
    judgement = ask(judge, [Comparison(PROBLEM, r"\boxed{3}", r"\boxed{2}")])
    assert (judgement.error, judgement.verdicts[0].preference) == (None, Preference.B)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("shared_generators")  # TRL draws from them
def test_trls_trainer_learns_from_our_grader(tmp_path):
    pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import LlamaForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    from tests.conftest import make_tiny_base

    base = make_tiny_base()
    base.tokenizer.pad_token = base.tokenizer.eos_token
    base.model.config.pad_token_id = base.tokenizer.pad_token_id
    calls = []

    class Recorded(RewardFunction):
        def __call__(self, prompts=None, completions=(), **columns):
            rewards = super().__call__(prompts, completions, **columns)
            calls.append((prompts, completions, columns, rewards))
            return rewards

    rows = {"prompt": [chat("1 + 1 =")[:1], chat("2 + 2 =")[:1]], "result": [2, 4]}
    options = GRPOConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, num_generations=2,
        max_completion_length=4, use_cpu=True, report_to=[], save_strategy="no", logging_steps=1,
        learning_rate=1e-3, seed=0, disable_tqdm=True, bf16=False,
    )  # fmt: skip
    with Recorded(answer_column="result", right=1.0, wrong=-1.0) as reward:
        trainer = GRPOTrainer(
            LlamaForCausalLM(base.model.config), reward, args=options,
            train_dataset=Dataset.from_dict(rows), processing_class=base.tokenizer,
        )  # fmt: skip
        trainer.train()
    ((prompts, completions, columns, rewards),) = calls
    assert len(prompts) == len(completions) == 4
    assert {message["role"] for said in completions for message in said} == {"assistant"}
    assert sorted(columns["result"]) == [2, 2, 4, 4]
    assert "trainer_state" in columns  # TRL passes more than columns, which does no harm
    assert set(rewards) <= {1.0, -1.0}
    logged = [row for row in trainer.state.log_history if "rewards/correctness/mean" in row]
    assert logged[0]["rewards/correctness/mean"] == pytest.approx(sum(rewards) / 4)


@pytest.mark.parametrize("role", ["tool", "function", "user"])
def test_the_last_message_of_a_completion_must_be_the_models(role):
    chat = [{"role": "assistant", "content": "let me see"}, {"role": role, "content": "18"}]
    with RewardFunction() as reward:
        assert reward(
            completions=[chat, [*chat, {"role": "assistant", "content": "18"}]], answer=["18", "18"]
        ) == [0.0, 1.0]


def test_the_question_says_in_which_units_a_number_is_wanted():
    with RewardFunction() as reward:
        asked = {"completions": ["Answer: 2 dozen"], "answer": ["2"]}
        assert reward(prompts=["How many dozen eggs does she have?"], **asked) == [1.0]
        assert reward(prompts=["How many eggs does she have?"], **asked) == [0.0]
        with pytest.raises(ValueError, match="prompts must hold 1 prompts"):
            reward(prompts=[], **asked)
