"""What judgements are worth, with planted judges of every kind that must not pay."""

import re
from collections import defaultdict

import numpy as np
import pytest

from populora_env.arena import ReasoningArena
from populora_env.judges.skill import (
    JudgingSkill,
    answer_standings,
    mean,
    opinion_skill,
    opinions,
    pair_skill,
)
from populora_env.keys import generator
from populora_env.records import (
    Assessment,
    Attempt,
    Evaluation,
    Phase,
    Preference,
    Problem,
    ReplyStatus,
    Verdict,
)

A, B, TIE = Preference.A, Preference.B, Preference.TIE


def attempt(agent, answer="1"):
    return Attempt(agent, "0", answer or "", answer, ReplyStatus.OK)


def pair(judge, first, second, preference):
    back = None if preference is None else preference.mirrored
    return Evaluation.from_verdicts(judge, first, second, Verdict(preference), Verdict(back))


def score(judge, author, value, form=Phase.SCORE):
    return Assessment(judge, author, form, value, "", ReplyStatus.OK)


def test_mean_leaves_unknown_values_out():
    assert mean([None, 1.0, 0.0]) == 0.5
    assert mean([None]) is None


def test_opinions_leave_out_abstentions_oneself_and_the_named_judge():
    pairs = [pair("z", "x", "y", A), pair("w", "x", "y", TIE), pair("x", "x", "y", A),
             pair("z", "x", "w", None), pair(None, "x", "y", A)]  # fmt: skip
    found = opinions("xyzw", Phase.COMPARE, pairs, [])
    assert found == {"x": [1.0, 0.5], "y": [0.0, 0.5], "z": [], "w": []}
    assert opinions("xy", Phase.COMPARE, pairs, [], without="z") == {"x": [0.5], "y": [0.5]}
    scores = [score("y", "x", 0.7), score("x", "x", 1.0), score("z", "x", None),
              score("z", "x", 1.0, Phase.CRITIQUE)]  # fmt: skip
    assert opinions("xy", Phase.SCORE, [], scores) == {"x": [0.7], "y": []}
    assert opinions("xy", Phase.CRITIQUE, [], scores) == {"x": [1.0], "y": []}


def test_attempts_with_the_same_answer_share_what_is_thought_of_them():
    attempts = [attempt("x", "1"), attempt("y", "1"), attempt("z", None), attempt("w", None)]
    found = {"x": [1.0], "y": [0.0], "z": [0.25], "w": []}
    assert answer_standings(attempts, found) == {"x": 0.5, "y": 0.5, "z": 0.25, "w": None}


@pytest.mark.parametrize(
    ("value", "author", "worth"),
    [(1.0, "x", 1.0), (0.0, "x", 0.0), (0.5, "x", 0.5), (0.0, "y", 0.75), (1.0, "y", 0.25)],
)
def test_finding_the_one_right_attempt_of_three_is_worth_most(value, author, worth):
    assert opinion_skill(value, author, {"x": 1.0, "y": 0.0, "z": 0.0}) == pytest.approx(worth)


def test_where_attempts_do_not_differ_no_judgement_is_worth_anything():
    assert opinion_skill(1.0, "x", {"x": 1.0, "y": 1.0}) is None
    assert opinion_skill(1.0, "x", {"x": None, "y": 1.0}) is None
    assert pair_skill(A, "x", "y", {"x": 1.0, "y": 1.0}) is None
    assert pair_skill(A, "x", "y", {"x": 1.0, "y": None}) is None


@pytest.mark.parametrize(("preference", "worth"), [(A, 1.0), (TIE, 0.5), (B, 0.0)])
def test_a_pair_is_worth_something_if_exactly_one_attempt_is_right(preference, worth):
    assert pair_skill(preference, "x", "y", {"x": 1.0, "y": 0.0, "z": 1.0}) == worth
    assert pair_skill(preference, "y", "x", {"x": 1.0, "y": 0.0, "z": 1.0}) == 1.0 - worth


def test_an_opinion_that_never_changes_is_worth_one_half_on_average():
    rng = np.random.default_rng(0)
    for _ in range(50):
        reference = {str(at): float(value) for at, value in enumerate(rng.random(6))}
        for value in (0.0, 0.3, 1.0):
            assert np.mean([opinion_skill(value, at, reference) for at in reference]) == (
                pytest.approx(0.5)
            )


def test_without_the_truth_a_judge_is_held_against_the_others_and_never_against_itself():
    attempts = [attempt(agent, agent) for agent in "xyjk"]
    alone = [pair("j", "x", "y", A)]
    assert JudgingSkill(attempts, None, alone, []).of_pair("j", alone[0]) == (None, False)
    both = [*alone, pair("k", "x", "y", A)]
    assert JudgingSkill(attempts, None, both, []).of_pair("j", both[0]) == (1.0, True)
    disagreeing = [*alone, pair("k", "x", "y", B)]
    assert JudgingSkill(attempts, None, disagreeing, []).of_pair("j", alone[0]) == (0.0, True)


def test_an_unreadable_judgement_earns_nothing_where_a_readable_one_could():
    attempts = [attempt(agent, agent) for agent in "xyj"]
    entry = pair("j", "x", "y", None)
    truth = {"x": 1.0, "y": 0.0, "j": None}
    assert JudgingSkill(attempts, truth, [entry], []).of_pair("j", entry) == (None, True)
    silent = score("j", "x", None)
    assert JudgingSkill(attempts, truth, [], [silent]).of_assessment(silent) == (None, True)


# Planted judges. Attempts name their author, so that judges who want to cheat can; half of them
# are right, and how long they are says nothing about that.

SIGNED = re.compile(r"> by (agent_\d+) (x+)\n> Answer: (\S+)")


def honest(judge, seen, rng):
    """Right about an attempt four times out of five."""
    return float(seen.right == (rng.random() < 0.8))


class Seen:
    def __init__(self, author, padding, answer):
        self.author, self.long, self.right = author, len(padding) > 20, answer == "2"


PLANTED = {
    "top": lambda judge, seen, rng: 1.0,
    "bottom": lambda judge, seen, rng: 0.0,
    "middle": lambda judge, seen, rng: 0.5,
    "longer": lambda judge, seen, rng: float(seen.long),
    "coin": lambda judge, seen, rng: float(rng.random() < 0.5),
    "contrary": lambda judge, seen, rng: 1.0 - honest(judge, seen, rng),
    "shy": lambda judge, seen, rng: honest(judge, seen, rng) or None,  # silent where it sees fault
}


def say(phase, judge, opinion, prompt, rng):
    """Turn opinions of the attempts in a prompt into a reply."""
    shown = [opinion(judge, Seen(*match), rng) for match in SIGNED.findall(prompt)]
    if None in shown:
        return "?"
    if phase == "score":
        return str(round(10 * shown[0]))
    if phase == "critique":
        return f"Verdict: {'correct' if shown[0] > 0.5 else 'incorrect'}"
    return "tie" if shown[0] == shown[1] else "A" if shown[0] > shown[1] else "B"


def play(judges, evaluation, *, known=True, episodes=40, sayings=None, **options):
    """Play with one way of judging per agent; return agent to its mean of each part and return."""
    problem = Problem.create("1 + 1 =", "2" if known else None)
    env = ReasoningArena([problem], len(judges), evaluation, **options)
    names = [f"agent_{number}" for number in range(len(judges))]
    parts, returns = defaultdict(list), defaultdict(list)
    for episode in range(episodes):
        observations, _ = env.reset()
        infos = {}
        while env.agents:
            actions = {}
            for agent, opinion in zip(names, judges, strict=True):
                seen = observations[agent]
                rng = generator("planted", episode, agent, int(seen["round"]))
                if seen["phase"] == "solve":
                    answer = "2" if rng.random() < 0.5 else str(3 + rng.integers(2))
                    padding = "x" * int(rng.integers(1, 40))
                    actions[agent] = f"by {agent} {padding}\nAnswer: {answer}"
                elif sayings and agent in sayings:
                    actions[agent] = sayings[agent]
                else:
                    actions[agent] = say(seen["phase"], agent, opinion, seen["prompt"], rng)
            observations, _, _, _, infos = env.step(actions)
        for agent in names:
            returns[agent].append(env.transcript.rewards[agent])
            parts[agent].append(infos[agent]["parts"]["judging"])
    skills = [mean(parts[agent]) for agent in names]
    return skills, [np.mean(returns[agent]) for agent in names]


@pytest.mark.parametrize(
    "known",
    [pytest.param(True, id="truth"), pytest.param(False, id="consensus", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("evaluation", ["score", "compare", "critique", "score+compare+critique"])
@pytest.mark.parametrize("kind", PLANTED)
def test_planted_judges_earn_less_than_honest_ones(kind, evaluation, known):
    judges = [PLANTED[kind]] + [honest] * 5
    skills, _ = play(judges, evaluation, known=known, judge_load=3)
    assert min(skills[1:]) > 0.55
    assert skills[0] < min(skills[1:]) - 0.03


@pytest.mark.parametrize("known", [True, False], ids=["truth", "consensus"])
@pytest.mark.parametrize("reply", ["A", "B", "tie"])
def test_judges_with_one_answer_to_every_pair_earn_exactly_one_half(reply, known):
    skills, _ = play([honest] * 6, "compare", known=known, judge_load=3, sayings={"agent_0": reply})
    assert skills[0] == pytest.approx(0.5)
    assert min(skills[1:]) > 0.6


@pytest.mark.parametrize("known", [True, False], ids=["truth", "consensus"])
@pytest.mark.parametrize("evaluation", ["score", "compare", "critique"])
def test_judges_that_favour_themselves_earn_less_and_do_not_raise_their_standing(evaluation, known):
    def vain(judge, seen, rng):
        return 1.0 if seen.author == judge else 0.0

    skills, returns = play(
        [vain] + [honest] * 5, evaluation, known=known, self_judging=True,
        matchmaking="round_robin", rewards="peers_only",
    )  # fmt: skip
    assert skills[0] < min(skills[1:]) - 0.05
    assert returns[0] < np.mean(returns[1:])


@pytest.mark.slow
@pytest.mark.parametrize("rewards", ["ground_truth", "peers_only", "majority_answer"])
@pytest.mark.parametrize("evaluation", ["score", "compare", "critique"])
@pytest.mark.parametrize("bloc", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_bloc_that_praises_its_own_earns_less_than_honest_judges(bloc, evaluation, rewards):
    def partisan(judge, seen, rng):
        return float(int(seen.author[6:]) < bloc)

    judges = [partisan] * bloc + [honest] * (8 - bloc)
    skills, returns = play(
        judges, evaluation, matchmaking="round_robin", rewards=rewards, episodes=60
    )
    assert max(skills[:bloc]) < min(skills[bloc:])
    if rewards == "peers_only":
        assert np.mean(returns[:bloc]) < np.mean(returns[bloc:])
