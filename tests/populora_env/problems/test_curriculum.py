"""Curricula: how they move, what they never give, and what they remember."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from populora_env.problems import ProblemSpecError, Split, load_problems, split_of
from populora_env.problems.drawing.curriculum import CurriculumSource
from populora_env.problems.drawing.strategies import CURRICULA, LevelStrategy
from populora_env.problems.sources.adaptive import AdaptiveSource
from populora_env.records import Attempt, Grade, GradeStatus, Problem, ReplyStatus, Transcript
from populora_env.testing import check_problem_source

WINDOW = "curriculum:window(chain_sum+2*products,up=0.75,over=8,width=2,upto=4)"
LEARNABILITY = "curriculum:learnability(chain_sum,upto=4)"
SPECS = [WINDOW, LEARNABILITY, "curriculum:uniform(chain_sum+products,upto=3)"]


def load(spec: str, split: str | None = "train", **options) -> CurriculumSource:
    source = load_problems(spec, split=split, **options)
    assert isinstance(source, CurriculumSource)
    return source


def attempt(agent: str, problem: Problem, right: bool | None) -> Attempt:
    status = {True: GradeStatus.CORRECT, False: GradeStatus.WRONG, None: GradeStatus.UNGRADED}
    grade = Grade(right, "1", status[right])
    return Attempt(agent, problem.id, "1", "1", ReplyStatus.OK, grade)


def transcript(problem: Problem, *right: bool | None) -> Transcript:
    agents = tuple(f"agent_{at}" for at in range(len(right)))
    attempts = tuple(attempt(agent, problem, r) for agent, r in zip(agents, right, strict=True))
    return Transcript(problem, agents, attempts, (), (), dict.fromkeys(agents, 0.0), 0)


def level(problem: Problem) -> list[int]:
    return problem.metadata["curriculum"]["level"]


def solved(problem: Problem, limit: float, rng: np.random.Generator) -> Transcript:
    """Eight tries of a solver whose chance falls with the level, one half at ``limit``."""
    chance = 1 / (1 + np.exp(6 * (sum(level(problem)) - limit)))
    return transcript(problem, *(bool(rng.random() < chance) for _ in range(8)))


def play(source: CurriculumSource, limit: float, episodes: int, seed: int = 0) -> list[Problem]:
    rng, played = np.random.default_rng(seed), []
    for at in range(0, episodes, 4):
        problems = source[at : at + 4]
        source.observe([solved(problem, limit, rng) for problem in problems])
        played += problems
    return played


def difficulties(source: CurriculumSource, count: int = 300) -> Counter[int]:
    return Counter(sum(level(source[at])) for at in range(count))


@pytest.mark.parametrize("spec", SPECS)
def test_sources_keep_what_a_source_promises(spec):
    train, test = load(spec, limit=400), load(spec, "test", limit=400)
    assert isinstance(train, AdaptiveSource)
    check_problem_source(train, test, samples=30)
    play(train, 3, 80)
    check_problem_source(train, test, samples=30)
    assert len(load(spec)) > 10_000


@pytest.mark.parametrize("spec", SPECS)
def test_no_problem_of_the_other_split_is_ever_given(spec):
    source = load(spec)
    played = play(source, 2.5, 200)
    assert all(split_of(problem) is Split.TRAIN for problem in played)
    everything = load(spec, None)
    assert {split_of(problem) for problem in everything[:50]} == set(Split)


@pytest.mark.parametrize("spec", SPECS)
def test_items_depend_on_index_seed_and_state(spec):
    source, other = load(spec), load(spec)
    assert source[:20] == [other[at] for at in reversed(range(20))][::-1]
    assert source[:20] != load(spec, seed=1)[:20]
    play(source, 2, 80)
    assert source.spec == spec
    other.load(json.loads(json.dumps(source.state())))
    assert other[:50] == source[:50]
    if not spec.startswith("curriculum:uniform"):
        assert source[:50] != load(spec)[:50]


@pytest.mark.parametrize("spec", SPECS)
def test_a_state_goes_and_comes_back_byte_for_byte(spec):
    source = load(spec)
    play(source, 2.2, 120)
    text = json.dumps(source.state())
    other = load(spec)
    other.load(json.loads(text))
    assert json.dumps(other.state()) == text
    for each in (source, other):
        play(each, 2.2, 40, seed=9)
    assert json.dumps(other.state()) == json.dumps(source.state())


@pytest.mark.parametrize("spec", SPECS[:2])
def test_forks_go_their_own_way_and_a_restart_forgets(spec):
    source = load(spec)
    new = json.dumps(source.state())
    play(source, 2, 80)
    before = json.dumps(source.state())
    fork = source.fork()
    assert json.dumps(fork.state()) == before
    play(fork, 5, 80, seed=3)
    assert json.dumps(fork.state()) != before == json.dumps(source.state())
    source.restart()
    assert json.dumps(source.state()) == new


def test_a_window_begins_at_the_easiest_and_stops_where_the_solver_does():
    source = load(WINDOW)
    assert difficulties(source) == {0: 300}
    play(source, 2.6, 400)
    for part in source.state()["parts"]:
        assert (part["low"], part["high"]) == (2, 3)
    assert set(difficulties(source)) == {2, 3}
    play(source, 99, 400)
    assert set(difficulties(source)) == {5, 6}  # the top: three steps up on both axes


def test_a_window_moves_up_after_enough_right_tries_at_its_top():
    source = load("curriculum:window(chain_sum,up=0.75,over=8)")
    easy = source[0]

    def after(*episodes: tuple[bool | None, ...]) -> dict[str, int]:
        source.restart()
        source.observe([transcript(easy, *right) for right in episodes])
        return source.state()["parts"][0]

    assert after((True,) * 7) == {"low": 0, "high": 0, "right": 7, "tries": 7}
    assert after((True,) * 7, (False, None)) == {"low": 0, "high": 1, "right": 0, "tries": 0}
    assert after((True, True, True, False) * 2)["high"] == 1
    assert after((True,) * 5 + (False,) * 3) == {"low": 0, "high": 0, "right": 0, "tries": 0}
    # Below its top nothing is counted.
    assert after((True,) * 8, (True,) * 8) == {"low": 0, "high": 1, "right": 0, "tries": 0}


def test_each_generator_has_a_window_of_its_own():
    source = load(WINDOW)
    ours = [problem for problem in source[:60] if problem.source == "procedural:products"]
    source.observe([transcript(ours[0], *(True,) * 8)])
    assert [part["high"] for part in source.state()["parts"]] == [0, 1]
    assert 30 < len(ours) < 50  # drawn twice as often


def test_learnability_goes_where_half_is_solved():
    source = load(LEARNABILITY)
    before = difficulties(source)
    assert set(before) == set(range(7))
    play(source, 2.0, 600)
    after = difficulties(source)
    assert after[2] > 1.5 * before[2]
    play(source, 5, 600)
    later = difficulties(source)
    assert later[5] > 1.5 * max(before[5], after[5])
    assert later[2] < 0.7 * after[2]


def test_a_buffer_forgets_what_teaches_least():
    source = load("curriculum:learnability(chain_sum,buffer=2,memory=16,upto=3)")
    kinds = {tuple(level(problem)): problem for problem in source[:200]}
    easy, middle, hard = kinds[0, 0], kinds[1, 1], kinds[2, 2]
    source.observe([transcript(easy, *(True,) * 8), transcript(middle, *(True, False) * 4)])
    source.observe([transcript(hard, *(False,) * 16)])
    assert source.state()["parts"] == [{"kept": [[[0, 0], 8.0, 8.0], [[1, 1], 4.0, 8.0]]}]
    source.observe([transcript(middle, *(True,) * 24)])
    assert source.state()["parts"][0]["kept"][1] == [[1, 1], 14.0, 16.0]


@pytest.mark.parametrize("spec", SPECS[:2])
def test_what_came_from_elsewhere_is_left_out(spec):
    source, held_out = load(spec), load(spec, "test")
    new = source.state()
    mine = source[0]
    mark = mine.metadata["curriculum"]
    others = [
        held_out[0],
        replace(held_out[0], metadata=mine.metadata),  # a mark does not make it a training problem
        load_problems("procedural:chain_sum", split="train")[0],
        load("curriculum:window(chain_sum)")[0],
        *(
            replace(mine, metadata={"curriculum": {**mark, **wrong}})
            for wrong in ({"part": 9}, {"part": -1}, {"level": [99, 0]}, {"level": "00"})
        ),
        replace(mine, metadata={"curriculum": 3}),
    ]
    source.observe([transcript(problem, *(True,) * 8) for problem in others])
    source.observe([transcript(mine, None, None)])
    assert source.state() == new
    source.observe([transcript(mine, *(True,) * 8)])
    assert source.state() != new


@pytest.mark.parametrize("spec", SPECS)
def test_the_test_split_has_all_levels_and_never_adapts(spec):
    source = load(spec, "test")
    before, items = source.state(), source[:60]
    assert len({tuple(level(problem)) for problem in items}) > 5
    source.observe([transcript(problem, *(True,) * 8) for problem in items])
    source.load(source.state())
    assert (source.state(), source[:60]) == (before, items)


def test_excluded_problems_are_not_given_and_stay_excluded():
    source = load("curriculum:window(chain_sum)")
    given = {problem.id: problem for problem in source[:40]}
    source.exclude(list(given.values()))
    new = json.dumps(source.state())
    for each in (source, source.fork()):
        assert not given.keys() & {problem.id for problem in each[:200]}
        each.observe([transcript(problem, *(True,) * 8) for problem in given.values()])
        assert json.dumps(each.state()) == new
    source.restart()
    assert not given.keys() & {problem.id for problem in source[:200]}


def test_levels_that_a_generator_refuses_are_passed_over():
    source = load("curriculum:uniform(rubiks_cube)", "train", limit=30)
    sizes = {problem.metadata["parameters"]["cube_size"] for problem in source}
    assert sizes == {3, 4, 5, 6}  # 7 is in the curriculum, and refused


@pytest.mark.parametrize("spec", SPECS[:2])
@pytest.mark.parametrize(
    "damage",
    [
        lambda state: {},
        lambda state: {**state, "spec": "curriculum:uniform(chain_sum)"},
        lambda state: {**state, "parts": []},
        lambda state: {**state, "parts": [3] * len(state["parts"])},
        lambda state: {
            **state,
            "parts": [
                {"low": 3, "high": 1, "right": 0, "tries": 0, "kept": [[[99, 0], 1, 2]]}
                for _ in state["parts"]
            ],
        },
        lambda state: {
            **state,
            "parts": [
                {"low": 0, "high": 99, "right": 0, "tries": 0, "kept": [[[0, 0], 3, 2]]}
                for _ in state["parts"]
            ],
        },
    ],
)
def test_a_state_of_something_else_is_refused_and_changes_nothing(spec, damage):
    source = load(spec)
    play(source, 2, 40)
    before = json.dumps(source.state())
    with pytest.raises(ValueError, match="state is none of curriculum:") as caught:
        source.load(damage(source.state()))
    assert len(str(caught.value).splitlines()) == 1
    assert json.dumps(source.state()) == before


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("curriculum:windw(chain_sum)", "unknown curriculum 'windw'.*did you mean window"),
        ("curriculum:window", "is made of procedural generators, as in curriculum:window"),
        ("curriculum:window(acre)", "acre has no curriculum"),
        ("curriculum:window(chain_sum,upp=1)", "its options are up, over, width, upto; did you"),
        ("curriculum:window(chain_sum,up=2)", "up: got 2, expected a number above 0, up to 1"),
        ("curriculum:window(chain_sum,width=0)", "width: got 0, expected an integer >= 1"),
        ("curriculum:learnability(chain_sum,explore=0)", "explore: got 0"),
        ("curriculum:uniform(chain_sum,upto=0)", "upto: got 0"),
        ("curriculum:uniform(chain_sum,ladder=1)", "its options are upto"),
        ("curriculum:uniform(chain_sum)+window(products)", "a curriculum stands alone"),
        ("2*curriculum:uniform(chain_sum)", "curriculum stands alone"),
        ("gsm8k+curriculum:uniform(chain_sum)", "curriculum stands alone"),
        ("procedural:chain_sum+curriculum:uniform(gcd)", "curriculum stands alone"),
        ("curriculum:", "must have the form NAME"),
        ("curiculum:uniform(chain_sum)", "did you mean curriculum?"),
    ],
)
def test_what_is_wrong_with_a_spec_is_one_line(spec, said):
    with pytest.raises(ProblemSpecError, match=said) as caught:
        load_problems(spec)
    assert len(str(caught.value).splitlines()) == 1


def test_a_strategy_of_ones_own():
    class Hardest(LevelStrategy):
        def choose(self, rng):
            return tuple(axis.steps - 1 for axis in self.ladder.axes)

    try:
        CURRICULA.add("hardest")(Hardest)
        assert difficulties(load("curriculum:hardest(chain_sum,upto=2)"), 20) == {2: 20}
    finally:
        CURRICULA.pop("hardest", None)
