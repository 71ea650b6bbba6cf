"""Who says what is right: the answer, the majority, peers, or a judge."""

import pytest

from populora_env.arena import ReasoningArena
from populora_env.episodes.labels import Labeller, majority_correctness, peer_standings, win_shares
from populora_env.episodes.rewards import Labels
from populora_env.records import (
    Assessment,
    Attempt,
    Evaluation,
    Grade,
    GradeStatus,
    Phase,
    Preference,
    Problem,
    ReplyStatus,
    Verdict,
)

A, B, TIE = Preference.A, Preference.B, Preference.TIE
SUM = Problem.create("1 + 1 =", "2")
OPEN = Problem.create("What is best?", None)


def attempt(agent, answer="1", correct=None):
    status = {True: GradeStatus.CORRECT, False: GradeStatus.WRONG, None: GradeStatus.UNGRADED}
    grade = Grade(correct, answer, status[correct])
    return Attempt(agent, "0", answer or "", answer, ReplyStatus.OK, grade)


def attempts(*answers):
    return [attempt(f"agent_{at}", answer) for at, answer in enumerate(answers)]


def evaluated(first, second, shown, back, judge="judge"):
    return Evaluation.from_verdicts(judge, first, second, Verdict(shown), Verdict(back))


@pytest.mark.parametrize(
    ("shown", "back", "preference", "flipped"),
    [
        (A, B, A, False),
        (B, A, B, False),
        (TIE, TIE, TIE, False),
        (A, A, TIE, True),
        (B, B, TIE, True),
        (A, TIE, TIE, True),
        (A, None, None, False),
        (None, None, None, False),
    ],
)
def test_a_win_needs_both_orders_to_agree(shown, back, preference, flipped):
    evaluation = evaluated("x", "y", shown, back)
    assert (evaluation.preference, evaluation.flipped) == (preference, flipped)


def test_win_shares_count_ties_half_and_abstentions_not_at_all():
    evaluations = [
        evaluated("x", "y", A, B),
        evaluated("y", "x", TIE, TIE),
        evaluated("x", "y", None, B),
        evaluated("z", "w", None, None),
    ]
    assert win_shares("xyzw", evaluations) == {"x": 0.75, "y": 0.25, "z": None, "w": None}


def test_peer_standing_counts_every_form_alike():
    pairs = [evaluated("x", "y", A, B), evaluated("x", "y", A, B)]
    scores = [Assessment("judge", "x", Phase.SCORE, 0.5, "", ReplyStatus.OK)]
    assert peer_standings("xyz", pairs, scores) == {"x": 0.75, "y": 0.0, "z": None}


def test_the_majority_has_to_be_one():
    def labels(*answers):
        return list(majority_correctness(attempts(*answers)).values())

    assert labels("1", "1", "2") == [1.0, 1.0, 0.0]
    assert labels("1", None, None) == [1.0, 0.0, 0.0]
    assert labels("1", "1", "2", "2") == [None] * 4
    assert labels(None, None) == [None, None]


class PrefersLonger:
    def judge(self, comparisons):
        lengths = [(len(entry.first), len(entry.second)) for entry in comparisons]
        return [Verdict(A if a > b else B if b > a else TIE) for a, b in lengths]


def change(labels, before, after, *, problem=OPEN, judge=None, by_peers=()):
    labeller = Labeller(labels, problem, judge)
    first, last = attempts(*before), attempts(*after)
    labeller.first(first)
    if by_peers:
        scores = [Assessment("judge", f"agent_{at}", Phase.SCORE, value, "", ReplyStatus.OK)
                  for at, value in enumerate(by_peers)]  # fmt: skip
        labeller.by_peers(first, [], scores)
    return tuple(list(found.values()) for found in labeller.revised(first, last))


def test_a_revision_towards_the_final_majority_is_an_improvement():
    changed, improved = change(Labels.MAJORITY, "1123", "1133")
    assert changed == [None] * 4
    assert improved == [None] * 4
    changed, improved = change(Labels.MAJORITY, "1122", "1222")
    assert changed == [None] * 4  # there was no majority to be paid by before
    assert improved == [0.0, 1.0, 0.0, 0.0]
    changed, improved = change(Labels.MAJORITY, "1112", "2222")
    assert changed == [0.0, 0.0, 0.0, 1.0]
    assert improved == [1.0, 1.0, 1.0, 0.0]


def test_a_judge_compares_each_revision_with_the_first_attempt():
    changed, improved = change(Labels.JUDGE, ("1", "22"), ("333", "4"), judge=PrefersLonger())
    assert changed == [1.0, -1.0]
    assert improved == [1.0, -1.0]
    assert change(Labels.JUDGE, "12", "12", judge=PrefersLonger()) == ([0.0, 0.0], [0.0, 0.0])


def test_a_revision_to_an_answer_that_peers_thought_well_of_is_an_improvement():
    changed, improved = change(Labels.PEERS, "123", "224", by_peers=(0.0, 0.75, 0.5))
    assert changed == improved == [0.75, 0.0, None]


@pytest.mark.parametrize(
    ("rewards", "correctness"),
    [
        ("ground_truth", [1.0, 0.0, 0.0]),
        ("majority_answer", [0.0, 1.0, 1.0]),
        ("peers_only", [None, None, None]),
        ("external_judge", [0.25, 0.25, 1.0]),
    ],
)
def test_presets_decide_even_where_the_answer_is_known(rewards, correctness):
    env = ReasoningArena([SUM], 3, judge=PrefersLonger(), rewards=rewards)
    env.reset()
    replies = dict(zip(env.agents, ["2", "3", "it is 3"], strict=True))
    infos = env.step(replies)[4]
    assert [info["parts"]["correctness"] for info in infos.values()] == correctness


def test_peers_alone_decide_at_the_end():
    env = ReasoningArena([SUM], 3, "score", rewards="peers_only", matchmaking="round_robin")
    observations, _ = env.reset()
    infos = {}
    while env.agents:
        actions = {}
        for agent in env.agents:
            prompt = observations[agent]["prompt"]
            if observations[agent]["phase"] == "solve":
                actions[agent] = "2" if agent == "agent_0" else "3"
            else:
                actions[agent] = "9" if "> 2" in prompt else "1"
        observations, _, _, _, infos = env.step(actions)
    parts = [info["parts"]["correctness"] for info in infos.values()]
    assert parts == pytest.approx([0.9, 0.1, 0.1])


def test_an_external_judge_has_to_be_given():
    with pytest.raises(ValueError, match="pass one as judge="):
        ReasoningArena([OPEN], rewards="external_judge")
