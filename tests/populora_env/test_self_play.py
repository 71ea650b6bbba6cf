"""The arena where agents write the problems."""

import json

import pettingzoo
import pytest
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test

import populora_env
from populora_env import Problem, ReasoningArena, RewardWeights, Transcript, load_problems
from populora_env.episodes.roles import Roles, role_games, role_name
from populora_env.problems import ProblemSpecError
from populora_env.problems.sources.base import Split, split_of
from populora_env.proposals.record import ProposalStatus
from populora_env.proposals.source import SelfPlaySource, _stands_in, novelty
from populora_env.proposals.task import TASKS, NotATask, TextTask
from populora_env.ratings import Ratings
from populora_env.reading.no_reply import NoReply
from populora_env.testing import check_episode_determinism, check_parallel_env

SPEC = "self-play:test_sums"
KNOWN = "1 + 1"


def read_sum(text):
    first, plus, second = text.partition("+")
    if not (plus and first.strip().isdecimal() and second.strip().isdecimal()):
        raise NotATask(ProposalStatus.UNREADABLE, "expected two numbers with a + between them")
    a, b = int(first), int(second)
    if max(a, b) > 99:
        raise NotATask(ProposalStatus.OUT_OF_RANGE, f"expected at most 99, got {max(a, b)}")
    return Problem.create(f"{a} + {b} =", str(a + b))


@pytest.fixture(autouse=True)
def sums(monkeypatch):
    """A kind of task of these tests' own."""
    make = lambda: TextTask("test_sums", "Write a sum.", read_sum, ["1 + 2", "3 + 4", "5 + 6"])  # noqa: E731
    monkeypatch.setitem(TASKS, "test_sums", make)


def arena(num_agents=4, proposers=1, **arguments):
    return ReasoningArena(SPEC, num_agents, proposers=proposers, **arguments)


def play(env, act, **reset):
    observations, infos = env.reset(**reset)
    steps = [(observations, {}, {}, {}, infos)]
    while env.agents:
        actions = {agent: act(agent, steps[-1][0][agent]) for agent in env.agents}
        steps.append(env.step(actions))
    return steps


def proposing(text, answer="2"):
    """Whoever proposes writes this text; solvers answer so."""

    def act(_agent, seen):
        if not seen["has_task"]:
            return "nobody asked"
        return {"propose": text, "solve": f"Answer: {answer}"}.get(seen["phase"], "A")

    return act


FORMS = (
    {"evaluation": "none"},
    {"evaluation": "score"},
    {"evaluation": "compare", "tries": 2},
    {"evaluation": "critique", "revise": True},
    {"evaluation": "score+compare+critique", "revise": True, "tries": 3, "judge_load": 2},
    {"evaluation": "compare", "matchmaking": "rating", "rewards": "learnability"},
)
NUMBERS = [n if n in (2, 3, 5) else pytest.param(n, marks=pytest.mark.slow) for n in range(2, 17)]


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("proposers", [1, "all"])
@pytest.mark.parametrize("num_agents", NUMBERS)
@pytest.mark.parametrize("options", FORMS, ids=lambda options: options["evaluation"])
def test_pettingzoo_and_our_own_tests_pass(options, num_agents, proposers):
    def make():
        return arena(num_agents, proposers, **options)

    parallel_api_test(make(), num_cycles=30)
    parallel_seed_test(make, num_cycles=10)
    api_test(populora_env.env(SPEC, num_agents, proposers=proposers, **options), num_cycles=30)
    seed_test(
        lambda: populora_env.env(SPEC, num_agents, proposers=proposers, **options), num_cycles=10
    )
    replies = ("4 + 5", "12 + 7", "Answer: 9", "A", "", "7/10", "100 + 1", "Verdict: correct")
    check_parallel_env(make, replies=replies, episodes=4)
    check_episode_determinism(
        make, lambda agent, seen: "4 + 5" if seen["phase"] == "propose" else f"{agent[-1]} or 9"
    )


def test_a_valid_proposal_is_solved_by_the_others_and_pays_by_their_rate():
    env = arena(num_agents=4, rewards="learnability", evaluation="none")

    def act(agent, seen):
        if seen["phase"] == "propose":
            return "20 + 3"
        return "Answer: 23" if agent in ("agent_1", "agent_2") else "I do not know"

    steps = play(env, act, seed=1)
    asked = [{agent for agent, seen in step[0].items() if seen["has_task"]} for step in steps]
    assert asked == [{"agent_0"}, {"agent_1", "agent_2", "agent_3"}, set()]
    assert [seen["phase"] for seen in (step[0]["agent_2"] for step in steps)] == [
        "propose", "solve", "done",
    ]  # fmt: skip
    assert steps[1][4]["agent_3"]["proposal"] == "valid"
    transcript = env.transcript
    assert transcript.problem.prompt == "20 + 3 ="
    assert transcript.proposal.solve_rate == pytest.approx(2 / 3)
    assert transcript.rewards == {
        "agent_0": pytest.approx(1 / 3), "agent_1": pytest.approx(1.0), "agent_2":
        pytest.approx(1.0), "agent_3": pytest.approx(-1.0),
    }  # fmt: skip
    assert sum(step[1]["agent_0"] for step in steps[1:]) == pytest.approx(1 / 3)
    turn = transcript.turns[0]
    assert (turn.phase, turn.agent, turn.parts["learnability"]) == (
        "propose", "agent_0", pytest.approx(1 / 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", "empty"), (" \n", "empty"), ("a sum", "unreadable"), ("100 + 1", "out_of_range"),
        ("x" * 200, "too_long"), ("\ud800 + 1", "unreadable"), ("\x00", "unreadable"),
    ],
)  # fmt: skip
def test_an_invalid_proposal_ends_the_episode_with_its_reason(text, status):
    env = arena(rewards="learnability", max_reply_chars=100)
    steps = play(env, proposing(text), seed=0)
    assert len(steps) == 2
    for info in steps[1][4].values():
        assert info["proposal"] == status
        assert info["reason"]
    transcript = env.transcript
    assert transcript.rewards == {"agent_0": -1.0}
    assert transcript.attempts == ()
    assert transcript.proposal.status == status
    assert transcript.problem.answer is None
    read = Transcript.from_dict(json.loads(json.dumps(transcript.to_dict())))
    assert read.proposal == transcript.proposal


def test_nobody_solves_pays_nothing_and_everybody_solves_pays_nothing():
    for answer, rate in (("0", 0.0), ("46", 1.0)):
        env = arena(rewards="learnability", evaluation="none")
        play(env, proposing("23 + 23", answer), seed=0)
        assert env.transcript.proposal.solve_rate == rate
        assert env.transcript.rewards["agent_0"] == 0.0


def test_variance_pays_most_at_one_half():
    env = arena(3, rewards="variance", evaluation="none")
    play(env, lambda a, s: "1 + 7" if s["phase"] == "propose" else ("8" if a == "agent_1" else "9"))
    assert env.transcript.rewards["agent_0"] == pytest.approx(1.0)


def test_one_agent_alone_solves_what_it_wrote():
    env = arena(1, "all", tries=4, rewards="learnability", evaluation="none")
    count = iter(["8", "9", "8", "8"])
    steps = play(env, lambda _, s: "1 + 7" if s["phase"] == "propose" else next(count), seed=0)
    transcript = env.transcript
    assert transcript.proposal.solve_rate == pytest.approx(3 / 4)
    earned = [turn.reward for turn in transcript.turns]
    assert earned == [pytest.approx(x) for x in (1 / 4, 1.0, -0.5, 1.0, 1.0)]
    assert transcript.rewards["agent_0"] == pytest.approx(sum(earned))
    assert sum(step[1]["agent_0"] for step in steps[1:]) == pytest.approx(sum(earned))


def test_tries_count_in_the_rate_and_only_the_last_is_judged():
    env = arena(3, tries=2, evaluation="score", rewards="learnability")
    count = iter(["Answer: 8", "8", "no", "Answer: 8"])

    def act(agent, seen):
        if not seen["has_task"]:
            return ""
        return {"propose": "1 + 7", "score": "Score: 5/10"}.get(seen["phase"]) or next(count)

    play(env, act, seed=0)
    transcript = env.transcript
    assert [attempt.agent for attempt in transcript.attempts] == ["agent_1", "agent_2"] * 2
    assert transcript.proposal.solve_rate == pytest.approx(3 / 4)
    assert [turn.round for turn in transcript.turns] == [0, 1, 1, 2, 2, 3, 3]
    assert [entry.judge for entry in transcript.assessments] == ["agent_1", "agent_2"]


def test_the_same_proposal_is_refused_until_it_is_forgotten():
    env = arena(evaluation="none")
    play(env, proposing("1 + 7"), seed=0)
    play(env, proposing("1 + 7"))
    assert env.transcript.proposal.status is ProposalStatus.REPEATED
    play(env, proposing("1 + 7"), seed=0)
    assert env.transcript.proposal.valid


def test_a_copy_of_an_example_is_no_proposal():
    source = load_problems(SPEC)
    for number in range(6):
        request = source[number]
        for text in ("1 + 2", "3 + 4", "5 + 6"):  # all that the kind shows
            assert text in request.prompt
            proposal, problem = source.verify(request, "agent_0", text)
            assert (proposal.status, problem) == (ProposalStatus.REPEATED, None)
            assert proposal.reason == "an example of the request"
    assert source.verify(source[0], "agent_0", "11 + 2")[0].valid


def test_proposers_are_told_what_their_last_proposals_came_to():
    env = arena(evaluation="none", num_agents=3)
    play(env, proposing("1 + 7", "8"), seed=0)
    play(env, proposing("nothing"))
    prompt = env.reset()[0]["agent_0"]["prompt"]
    assert "1 + 7 = (100% solved it)" in prompt or "1 + 7 (100% solved it)" in prompt
    assert "(not valid: expected two numbers with a + between them)" in prompt
    assert "nothing" not in prompt


def test_held_out_problems_are_refused_counted_and_not_paid():
    source = load_problems(SPEC)
    source.exclude([read_sum("1 + 7")])
    env = ReasoningArena(source, 3, proposers=1, rewards="learnability", evaluation="none")
    play(env, proposing("1 + 7"), seed=0)
    transcript = env.transcript
    assert transcript.proposal.status is ProposalStatus.HELD_OUT
    assert transcript.turns[0].parts["validity"] is None
    assert transcript.rewards == {"agent_0": 0.0}


def test_the_train_split_takes_no_problem_of_the_test_half():
    source = load_problems(SPEC, split="train")
    request = source[0]
    for number in range(40):
        proposal, problem = source.verify(request, "agent_0", f"{number} + 1")
        test = split_of(read_sum(f"{number} + 1")) is Split.TEST
        assert (proposal.status is ProposalStatus.HELD_OUT) == test
        assert (problem is None) == test
    with pytest.raises(ProblemSpecError, match="nobody proposes held-out problems"):
        load_problems(SPEC, split="test")


def test_a_reply_that_failed_is_unknown_and_not_a_loss():
    from populora_env.reading.no_reply import NoReply

    env = arena(rewards="learnability")
    env.reset(seed=0)
    env.step({agent: NoReply() for agent in env.agents})
    assert env.transcript.proposal.status is ProposalStatus.FAILED
    assert env.transcript.turns[0].parts["validity"] is None


def test_solvers_are_matched_near_their_proposer():
    ratings = Ratings()
    roles = Roles(("a",), ("b", "c", "d"), 1, 1)
    games = []
    for _ in range(30):  # b always wins, d always loses, c wins half
        for solver, right in (("b", True), ("d", False), ("c", True), ("c", False)):
            won = populora_env.Verdict("A" if right else "B")
            lost = populora_env.Verdict("B" if right else "A")
            games.append(
                populora_env.Evaluation.from_verdicts(
                    None, role_name(solver, "solver"), role_name("a", "proposer"), won, lost
                )
            )
    ratings.update(games)
    from populora_env.keys import generator

    drawn = [roles.match("a", ratings, generator("t", i))[0] for i in range(300)]
    assert drawn.count("c") > 1.5 * max(drawn.count("b"), drawn.count("d"))


def test_games_are_between_author_and_proposer_and_none_if_nobody_solves():
    env = arena(3, evaluation="none")
    play(env, lambda a, s: "1 + 7" if s["phase"] == "propose" else ("8" if a == "agent_1" else "9"))
    games = role_games([env.transcript])
    assert [(g.first_author, g.second_author, g.preference) for g in games] == [
        ("agent_1:solver", "agent_0:proposer", "A"),
        ("agent_2:solver", "agent_0:proposer", "B"),
    ]
    play(env, proposing("2 + 7", "0"))
    assert role_games([env.transcript]) == []


def test_proposers_take_turns_by_the_number_of_the_request():
    source = load_problems(SPEC)
    env = ReasoningArena(source, 5, proposers=3, evaluation="none")
    for number in range(6):
        env.reset(options={"problem": source[number]})
        observations = env.reset(options={"problem": source[number]})[0]
        asked = [agent for agent, seen in observations.items() if seen["has_task"]]
        assert asked == [f"agent_{number % 3}"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"problems": SPEC}, "proposers: got 0"),
        ({"problems": "procedural:chain_sum", "proposers": 1}, "proposers: got 1"),
        ({"problems": SPEC, "num_agents": 4, "proposers": 4}, "from 0 to num_agents - 1 = 3, got"),
        ({"problems": SPEC, "num_agents": 1, "proposers": 1}, "from 0 to num_agents - 1 = 0, got"),
        ({"problems": SPEC, "proposers": "some"}, "proposers must be 'all' or an integer"),
        ({"problems": SPEC, "proposers": True}, "proposers must be 'all' or an integer"),
        ({"problems": SPEC, "proposers": 1, "solvers": 4}, "solvers must be at most 3"),
        ({"problems": SPEC, "proposers": 1, "tries": 0}, "tries must be an integer >= 1"),
        ({"problems": "procedural:chain_sum", "solvers": 2}, "solvers is for proposals"),
        ({"problems": "procedural:chain_sum", "tries": 0}, "tries must be an integer >= 1"),
        ({"problems": "self-play:test_sum", "proposers": 1}, "did you mean test_sums"),
        ({"problems": "self-play:test_sums(x=1)", "proposers": 1}, "accepts no options"),
        ({"problems": "self-play:", "proposers": 1}, "problem spec must have the form NAME"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, what it says is looked at below
        ReasoningArena(**arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_requests_of_the_source_can_be_played():
    env = arena()
    with pytest.raises(ValueError, match="must be a request of"):
        env.reset(options={"problem": read_sum("1 + 2")})


def test_the_pool_is_saved_whole_and_a_fork_goes_its_own_way():
    source = load_problems(SPEC)
    env = ReasoningArena(source, 3, proposers=2, evaluation="none", rewards=RewardWeights())
    transcripts = []
    for number, text in enumerate(["1 + 7", "1 + 7", "oh", "30 + 4"]):
        play(env, proposing(text), options={"problem": source[number]})
        transcripts.append(env.transcript)
    fork = source.fork()
    source.observe(transcripts)
    state = json.loads(json.dumps(source.state()))
    other = load_problems(SPEC)
    other.load(state)
    assert other.state() == source.state()
    for at in range(4, 8):
        for agent in ("agent_0", "agent_1"):
            assert other.request(other[at], agent) == source.request(source[at], agent)
    assert not other.verify(other[4], "agent_0", "1 + 7")[0].valid
    assert [p.prompt for p in other.latest(9)] == ["30 + 4 =", "1 + 7 ="]
    fork.restart()
    assert fork.verify(fork[4], "agent_0", "1 + 7")[0].valid
    with pytest.raises(ValueError, match="no pool of self-play"):
        other.load({"recent": 3})


def test_novelty_is_the_distance_to_the_nearest():
    assert novelty(["1", "+", "2"], []) == 1.0
    assert novelty(["1", "+", "2"], [["1", "+", "2"]]) == 0.0
    near = novelty(["1", "+", "2"], [["1", "+", "3"], ["9"]])
    assert 0.0 < near < 1.0


def test_mixtures_ask_for_kinds_by_weight():
    source = load_problems("self-play:test_sums+3*test_sums")
    assert isinstance(source, SelfPlaySource)
    kinds = [source.part_of(i) for i in range(400)]
    assert 0.65 < kinds.count("1:test_sums") / 400 < 0.85


def test_rendering_shows_request_proposal_and_attempts():
    env = arena(render_mode="ansi")
    play(env, proposing("1 + 7", "8"), seed=0)
    text = env.render()
    for part in ("[agent_0] is asked:", "proposes '1 + 7': valid", "[agent_2] answer 8", "rewards"):
        assert part in text
    play(env, proposing("what?"))
    assert "unreadable: expected two numbers" in env.render()
    assert "known answer" not in env.render()


def test_make_by_name_takes_proposers():
    env = pettingzoo.make("parallel", "populora/ReasoningArena-v0", problems=SPEC, proposers=1)
    env.reset(seed=0)
    env.close()


def test_two_tasks_of_one_kind_remember_each_its_own():
    source = load_problems("self-play:expressions(digits=1)+expressions(digits=3)", seed=0)
    for wanted in (0, 1):
        requests = [source[i] for i in range(60) if source[i].metadata["task"] == wanted][:3]
        found = []
        for request in requests:
            proposal, problem = source.verify(request, "agent_0", "Problem: 5 + 3 - 7 + 1 =")
            found.append(proposal.status.value)
            source.observe([Transcript(problem or request, ("agent_0",), (), (), (), {}, 0,
                                       proposal=proposal)])  # fmt: skip
        assert found == ["valid", "repeated", "repeated"]


def test_a_part_of_an_example_is_a_task_of_its_own():
    for prompt, copied in (
        ("Problem: 81 - 20 =", True), ("Problem: 81 - 20 * 5 =", False), ("say 81 - 20", True),
        ("Problem: 5 * 81 - 20 =", False), ("Problem: 5 - 81 - 20 =", False), ("- 81 - 20", True),
        ("Problem: 181 - 20 =", False),
    ):  # fmt: skip
        assert _stands_in("81 - 20", prompt) is copied, prompt


def test_a_reply_that_never_came_is_no_wrong_one():
    env = ReasoningArena([Problem.create("1 + 1 =", "2")], 2, evaluation="none")
    env.reset()
    _, rewards, _, _, infos = env.step({"agent_0": "Answer: 2", "agent_1": NoReply()})
    assert rewards["agent_1"] == 0
    assert set(infos["agent_1"]["parts"].values()) == {None}
    assert [a.correct for a in env.transcript.attempts] == [True, None]
    env = populora_env.parallel_env(
        "self-play:expressions", num_agents=3, proposers=1, evaluation="none",
        rewards="learnability",
    )  # fmt: skip
    env.reset(seed=1)
    env.step({"agent_0": "Problem: 12 + 30 =", "agent_1": "", "agent_2": ""})
    env.step({"agent_0": "", "agent_1": "Answer: 42", "agent_2": NoReply()})
    transcript = env.unwrapped.transcript
    assert transcript.proposal.solve_rate == 1  # of those that came
    assert len(role_games([transcript])) == 1
    env.close()


@pytest.mark.parametrize("owned", [True, False])
def test_close_ends_what_runs_for_a_source_of_the_arenas_own(monkeypatch, owned):
    closed = []
    monkeypatch.setattr(SelfPlaySource, "close", lambda self: closed.append(self))
    env = ReasoningArena(SPEC if owned else load_problems(SPEC), 3, proposers=1)
    env.close()
    assert len(closed) == owned


def test_a_request_is_shown_with_nothing_that_a_terminal_obeys(monkeypatch):
    make = lambda: TextTask("test_red", "Write \x1b[31mred.", read_sum, ["1 + 2"])  # noqa: E731
    monkeypatch.setitem(TASKS, "test_red", make)
    env = ReasoningArena("self-play:test_red", 3, proposers=1, render_mode="ansi")
    env.reset(seed=0)
    assert "Write \ufffd[31mred." in env.render()
