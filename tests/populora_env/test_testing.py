"""The checks of users' own parts: on parts that keep their promises, and on some that break one."""

import itertools
import time
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

from populora_env import (
    Comparison,
    Grader,
    Phase,
    Preference,
    Problem,
    ProblemSource,
    ReasoningArena,
    Request,
    UnicodeText,
    Verdict,
    load_problems,
)
from populora_env.judges import TimedJudge
from populora_env.judges.builtin import AnswerJudge, LengthJudge, PanelJudge, TextJudge
from populora_env.keys import generator
from populora_env.problems import SequenceSource
from populora_env.testing import (
    ConformanceError,
    check_episode_determinism,
    check_judge,
    check_parallel_env,
    check_policy,
    check_problem_source,
)

SUM = Problem.create("1 + 1 =", "2")

# Whole episodes


def act(agent, seen):
    return f"{agent} {seen['round']} {len(seen['prompt'])} A"


@pytest.mark.parametrize("num_agents", [1, 2, 3, 16])
@pytest.mark.parametrize("evaluation", ["compare", "none"])
@pytest.mark.parametrize("problems", ["procedural:chain_sum+products", [Problem.create("?", None)]])
def test_the_arena_is_deterministic(num_agents, evaluation, problems):
    check_episode_determinism(
        lambda: ReasoningArena(problems, num_agents, evaluation, judge_load=2), act
    )


class Planted(ReasoningArena):
    """Differs from any other arena in one place, in its second episode."""

    made = itertools.count()

    def __init__(self, place):
        super().__init__("procedural:chain_sum", 3)
        self.place, self.number, self.resets = place, next(self.made), 0

    def reset(self, seed=None, options=None):
        self.resets += 1
        observations, infos = super().reset(seed, options)
        if self.place == "reset" and self.resets == 2:
            infos["agent_2"]["parts"] = {"format": self.number}
        return observations, infos

    def step(self, actions):
        observations, rewards, terminated, truncated, infos = super().step(actions)
        if self.resets == 2 and observations["agent_0"]["round"] == 2:
            if self.place == "observation":
                observations["agent_1"]["prompt"] += str(self.number)
            if self.place == "reward":
                rewards["agent_2"] += 1e-12 * self.number
        return observations, rewards, terminated, truncated, infos


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("reset", r"episode 1, reset\.infos\.agent_2\.parts\.format differs"),
        ("observation", r"episode 1, step 1\.observations\.agent_1\.prompt differs"),
        ("reward", r"episode 1, step 1\.rewards\.agent_2 differs"),
    ],
)
def test_a_planted_difference_is_found_and_named(place, message):
    with pytest.raises(AssertionError, match=message):
        check_episode_determinism(lambda: Planted(place), act)
    check_episode_determinism(lambda: Planted("nowhere"), act)


def test_an_arena_that_ignores_its_seed_is_found():
    seeds = itertools.count()

    class Deaf(ReasoningArena):
        def reset(self, seed=None, options=None):
            return super().reset(next(seeds), options)

    with pytest.raises(AssertionError, match="episode 0, reset"):
        check_episode_determinism(lambda: Deaf("procedural:chain_sum", 3), act)


# Environments


class Elimination(ParallelEnv):
    """Whoever repeats an earlier text is out; the others go on for four rounds at most."""

    metadata: ClassVar[dict] = {"name": "elimination_v0", "render_modes": []}

    def __init__(self):
        self.possible_agents = ["agent_0", "agent_1", "agent_2"]
        self.agents = []
        self.started = False
        self.seen_space = spaces.Dict(
            {"round": spaces.Discrete(5), "luck": spaces.Box(-1.0, 1.0, (2,), np.float64)}
        )
        self.reply_space = UnicodeText()

    def observation_space(self, agent):
        return self.seen_space

    def action_space(self, agent):
        return self.reply_space

    def look(self):
        luck = generator("luck", self.seed, self.round).uniform(-1, 1, 2)
        return {agent: {"round": self.round, "luck": luck.copy()} for agent in self.agents}

    def reset(self, seed=None, options=None):
        self.seed = seed if seed is not None else getattr(self, "seed", 0) + 1
        self.started, self.round, self.said = True, 0, set()
        self.agents = list(self.possible_agents)
        return self.look(), {agent: {"score": float("nan")} for agent in self.agents}

    def step(self, actions):
        if not self.started or not self.agents or set(actions) != set(self.agents):
            raise RuntimeError("not now, or not these")
        self.round += 1
        out = {}
        for agent, text in actions.items():
            out[agent] = text in self.said
            self.said.add(text)
        seen, acted = self.look(), self.agents
        rewards = {agent: np.float64(not out[agent]) for agent in acted}
        cut = dict.fromkeys(acted, self.round == 4)
        self.agents = [agent for agent in acted if not out[agent] and not cut[agent]]
        return seen, rewards, out, cut, {agent: {} for agent in acted}


class Everything(ReasoningArena):
    def __init__(self):
        super().__init__([SUM], 3, evaluation="score+compare+critique", revise=True)


@pytest.mark.parametrize(
    "make_env",
    [
        Elimination,
        ReasoningArena,
        Everything,
        lambda: ReasoningArena([Problem.create("?", None)], 2, "critique", self_judging=True),
        lambda: ReasoningArena([SUM], 1),
        lambda: ReasoningArena([SUM], 4, matchmaking="rating", rewards="peers_only"),
        lambda: ReasoningArena([SUM], 4, "score", matchmaking="round_robin"),
    ],
)
def test_environments_that_keep_their_promises_pass(make_env):
    check_parallel_env(make_env)


def changed(place, change):
    """Return an environment class of which what one method returns is changed."""

    class Changed(Elimination):
        pass

    def method(self, *arguments, **options):
        return change(self, getattr(Elimination, place)(self, *arguments, **options))

    setattr(Changed, place, method)
    return Changed


def in_step(part, change):
    """Return an environment class of which one dictionary of each step is changed for agent_0."""

    def applied(env, result):
        if "agent_0" in result[part]:
            result[part]["agent_0"] = change(result[part]["agent_0"])
        return result

    return changed("step", applied)


class Nameless(Elimination):
    def __init__(self):
        super().__init__()
        self.possible_agents = ["agent_0", "agent_0"]


class Lenient(Elimination):
    """Takes every call, but for those that ``refused`` finds wrong."""

    def refused(self, actions):
        return False

    def step(self, actions):
        if self.refused(actions):
            raise RuntimeError("no")
        if not self.started or not self.agents:
            return {}, {}, {}, {}, {}
        return super().step({agent: actions.get(agent, "") for agent in self.agents})


class LenientLater(Lenient):
    def refused(self, actions):
        return not self.started


class LenientToUnknown(Lenient):
    def refused(self, actions):
        return not self.started or not set(self.agents) <= set(actions)


class LenientAtTheEnd(Lenient):
    def refused(self, actions):
        return not self.started or (bool(self.agents) and set(actions) != set(self.agents))


class Picky(Elimination):
    def reset(self, seed=None, options=None):
        if options:
            raise KeyError(f"unknown {options}")
        return super().reset(seed)


class Encoding(Elimination):
    def step(self, actions):
        [text.encode() for text in actions.values()]
        return super().step(actions)


class Endless(Elimination):
    def step(self, actions):
        super().step(actions)
        self.round, self.agents = 1, list(actions)
        no = dict.fromkeys(self.agents, False)
        return self.look(), dict.fromkeys(self.agents, 0.0), no, no, {a: {} for a in self.agents}


class Narrow(Elimination):
    def __init__(self):
        super().__init__()
        self.reply_space = spaces.Text(20)


class Unseeded(Elimination):
    def reset(self, seed=None, options=None):
        return super().reset(next(SEEDS), options)


class Remembering(Elimination):
    """Draws anew by what was played before, even with a seed."""

    resets = 0

    def look(self):
        return {agent: {**seen, "luck": self.luck} for agent, seen in super().look().items()}

    def reset(self, seed=None, options=None):
        self.resets += 1
        self.luck = np.full(2, min(self.resets / 100, 1.0))
        return super().reset(seed, options)


SEEDS = itertools.count()


@pytest.mark.parametrize(
    ("make_env", "message"),
    [
        (Nameless, r"possible_agents must be a list of different names, got \['agent_0', 'agent_0"),
        (
            changed("observation_space", lambda env, space: spaces.Dict(space.spaces)),
            r"observation_space\('agent_0'\) must return the same object each time",
        ),
        (
            changed("action_space", lambda env, space: UnicodeText()),
            r"action_space\('agent_0'\) must return the same object each time",
        ),
        (Narrow, r"action_space\('agent_0'\) must contain every text, but not an empty text"),
        (Lenient, "step before the first reset must raise, got "),
        (LenientLater, "step without agent_0 must raise, got "),
        (LenientToUnknown, "step with an unknown agent must raise, got "),
        (LenientAtTheEnd, "step after the end of the episode must raise, got "),
        (Picky, "reset must not refuse options that it does not know: it raised KeyError"),
        (
            changed("reset", lambda env, result: result[0]),
            r"reset must return the dictionaries \(observations, infos\), got",
        ),
        (
            changed("reset", lambda env, result: (result[0], {})),
            r"reset: infos must have an entry for each of .*, got \[\]",
        ),
        (
            changed("look", lambda env, seen: seen | {"agent_0": {"round": 0}}),
            "reset: the observation of agent_0 must be in its space, got {'round': 0}",
        ),
        (
            changed(
                "look", lambda env, seen: {a: seen[a] | {"round": 4 * env.round} for a in seen}
            ),
            "step 1 of .*: the observation of agent_0 must be in its space, got {'round': 8",
        ),
        (
            changed("step", lambda env, result: result[:4]),
            "step 0 of .* must return the five dictionaries observations, rewards, ",
        ),
        (
            changed("step", lambda env, result: (*result[:4], [])),
            r"step 0 of .*: infos must be a dictionary, got \[\]",
        ),
        (
            changed("step", lambda env, result: ({}, *result[1:])),
            r"step 0 of .*: observations must have an entry for each of .*, got \[\]",
        ),
        (in_step(1, lambda reward: float("nan")), "reward of agent_0 must be a finite .* got nan"),
        (in_step(1, lambda reward: None), "the reward of agent_0 must be a finite .* got None"),
        (in_step(1, lambda reward: True), "the reward of agent_0 must be a finite .* got True"),
        (in_step(2, int), "the termination of agent_0 must be True or False, got 0"),
        (in_step(3, str), "the truncation of agent_0 must be True or False, got 'False'"),
        (in_step(4, lambda info: None), "the info of agent_0 must be a dictionary, got None"),
        (
            in_step(2, lambda ended: not ended),
            r"step 0 of .* must leave exactly those in agents who have not ended, .* got",
        ),
        (Encoding, "any text is a legal action: it raised UnicodeEncodeError"),
        (Endless, "an episode with an empty text from all must end within 50 steps"),
        (Unseeded, r"episode 0, reset\.observations\.agent_0\.luck differs"),
        (Remembering, r"episode 0, reset\.observations\.agent_0\.luck differs"),
    ],
)
def test_an_environment_that_breaks_a_promise_is_refused(make_env, message):
    with pytest.raises(ConformanceError, match=message):
        check_parallel_env(make_env, max_steps=50)


# Policies


class Policy:
    """Keeps all promises: draws from each request's seed."""

    def act(self, requests):
        return [self.reply(request) for request in requests]

    def reply(self, request):
        return f"{request.phase} {generator('p', request.seed).integers(1000)}"


class Numbered(Policy):
    def act(self, requests):
        return [f"{place}" for place, _ in enumerate(requests)]


class Sorted(Policy):
    def act(self, requests):
        return sorted(super().act(requests))


class Counting(Policy):
    calls = 0

    def reply(self, request):
        self.calls += 1
        return str(self.calls)


class Emptying(Policy):
    def act(self, requests):
        replies = super().act(requests)
        requests.clear()
        return replies


def policy(change):
    """Return a policy whose replies to a batch are changed."""

    class Changed(Policy):
        def act(self, requests):
            return change(super().act(requests))

    return Changed()


class Fragile(Policy):
    def reply(self, request):
        request.prompt.encode()
        return "2"


class Unready(Policy):
    def act(self, requests):
        first, *others = super().act(requests)
        return [first, *others]


class Later(Policy):
    async def act(self, requests):
        return super().act(requests)


def test_policies_that_keep_their_promises_pass():
    check_policy(Policy())
    check_policy(policy(tuple))
    check_policy(Numbered(), batch_independent=False)
    check_policy(Later())
    check_policy(Policy(), [Request("agent_7", Phase.SOLVE, "1 + 1")])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (object(), r"a policy must have a method act\(requests\), got object"),
        (Unready(), r"Unready.act must answer no requests: it raised ValueError"),
        (policy(lambda replies: [*replies, "x"]), "must return one text for each of 0 .* got 1"),
        (policy(lambda replies: replies[:3]), "must return one text for each of 10 requests .* 3"),
        (policy(lambda replies: "".join(replies)), "must return a sequence of texts .* got str"),
        (policy(lambda replies: None), "must return a sequence of texts .* got NoneType"),
        (policy(lambda replies: [None] * len(replies)), "must return texts, got NoneType for req"),
        (Emptying(), "must leave the requests as they are; it changed those of a batch"),
        (Fragile(), "must answer a batch of which every prompt is lone surrogates: it raised Unic"),
        (Counting(), "must reply to the same requests in the same way; to request 0 .*solve.* '1'"),
        (Numbered(), "whatever else is in the batch .* '0' in a batch, '9' in the reversed batch"),
        (Sorted(), "must reply to each request, in order"),
    ],
)
def test_a_policy_that_breaks_a_promise_is_refused(broken, message):
    with pytest.raises(ConformanceError, match=message):
        check_policy(broken)


# Judges


class OfPreference:
    """A judge whose verdict is a function of the comparison."""

    def __init__(self, prefer):
        self.prefer = prefer

    def judge(self, comparisons):
        return [Verdict(self.prefer(entry)) for entry in comparisons]


class OfVerdicts:
    """A judge that returns whatever a function of the comparisons returns."""

    def __init__(self, judge):
        self.judge = judge


def tie(entry):
    return Preference.TIE


def by_author(entry):
    return Preference.A if entry.first_author == "agent_0" else Preference.B


def by_absence(entry):
    return None if entry.first_author is None else Preference.TIE


def encoding(entry):
    return Preference(["A", "B"][len(entry.second.encode()) % 2])


def drawn(entry):
    return [Preference.A, Preference.TIE][next(SEEDS) % 3 == 0]


def hanging(comparisons):
    time.sleep(0.5)
    return [Verdict(None)] * len(comparisons)


def test_judges_that_keep_their_promises_pass():
    for judge in (
        LengthJudge(),
        PanelJudge([LengthJudge(), OfPreference(tie)]),
        TextJudge(lambda prompt: f"Verdict: {'AB'[len(prompt) % 2]}"),
        OfPreference(lambda entry: None),
        TimedJudge(LengthJudge(), 5.0),
    ):
        check_judge(judge)
    with AnswerJudge() as judge:
        check_judge(judge, [Comparison(SUM, "2", "3"), Comparison(SUM, "3", "2")])
    check_judge(OfPreference(drawn), deterministic=False)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (object(), r"judge must have a method judge\(comparisons\), got object"),
        (OfVerdicts(lambda entries: [Verdict(None)]), r"judge\(\[\]\) must return nothing, got "),
        (OfVerdicts(lambda entries: None), r"judge\(\[\]\) must return nothing: it raised TypeErr"),
        (
            OfVerdicts(lambda entries: [Verdict(None) for _ in entries[1:]]),
            "one Verdict for each of 20 ordinary comparisons: judge must return 20 .* got 19",
        ),
        (
            OfVerdicts(lambda entries: ["A" for _ in entries]),
            "one Verdict for each of 20 .*: judge must return Verdict objects, got str",
        ),
        (
            OfVerdicts(lambda entries: [Verdict(None, "fine") for _ in entries]),
            "judge raised ValueError: status must be one of ok, lenient, .* got 'fine'",
        ),
        (
            OfVerdicts(hanging),
            r"must return nothing: it raised TimeoutError: no verdicts after 0.1",
        ),
        (
            OfPreference(encoding),
            "attempts of which one is lone surrogates: judge raised UnicodeEncodeError",
        ),
        (OfPreference(drawn), "must give the same verdicts again; comparison"),
        (
            OfPreference(by_author),
            r"not look at authors: with their names exchanged .* got A \(ok\), then B \(ok\)",
        ),
        (
            OfPreference(by_absence),
            r"not look at authors: with their names unknown .* got tie \(ok\), then an abstention",
        ),
    ],
)
def test_a_judge_that_breaks_a_promise_is_refused(judge, message):
    with pytest.raises(ConformanceError, match=message):
        check_judge(judge, timeout=0.1)


# Sources of problems


class Source(ProblemSource):
    """Sums, each of which a function may change before it is handed out."""

    spec = "small sums"

    def __init__(self, change=lambda problem, index: problem, length=30):
        self.change, self.length = change, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self._check_index(index)
        return self.change(Problem.create(f"{index} + 1 =", str(index + 1)), index)


class Wordy(Source):
    spec = "sums\nand more"


class Rolling(Source):
    def __getitem__(self, index):
        return super().__getitem__(index % self.length)


class Failing(Source):
    def __getitem__(self, index):
        if index > 1:
            raise RuntimeError("no more")
        return super().__getitem__(index)


def with_answer(answer, kind="number"):
    return Source(lambda problem, index: Problem.create(problem.prompt, answer, kind))


def test_sources_that_keep_their_promises_pass():
    check_problem_source(Source())
    check_problem_source(SequenceSource([SUM, Problem.create("?", None)]))
    check_problem_source(with_answer(r"\frac{1}{2}", "math"))
    check_problem_source(with_answer(" Blue. ", "text"))
    for spec in ("procedural:chain_sum+2*gcd", "procedural:products"):
        check_problem_source(
            load_problems(spec, split="train", seed=1), load_problems(spec, split="test", seed=2)
        )
    with Grader() as grader:
        check_problem_source(Source(length=1000), samples=10, grader=grader)
        assert grader._closed is False


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([SUM], "source must be a ProblemSource, got list: wrap a list in SequenceSource"),
        (Wordy(), r"Wordy.spec must be one line .* got 'sums\\nand more'"),
        (Source(length=0), r"len\(Source\) must be at least 1, got 0"),
        (Source(lambda problem, index: "1 + 1"), r"Source\[0\] must be a Problem, got str"),
        (Failing(), r"Failing\[2\] must be a Problem: it raised RuntimeError: no more"),
        (
            Source(lambda problem, index: replace(problem, source=str(next(SEEDS)))),
            r"Source\[29\] must be the same problem each time, got",
        ),
        (
            Source(lambda problem, index: replace(problem, id=f"sum-{index}")),
            r"Source\[0\]\.id must be the hash .* \w+, got 'sum-0'",
        ),
        (
            Source(lambda problem, index: replace(problem, answer=index)),
            r"Source\[0\] must hold what Problem.create accepts: it raised TypeError",
        ),
        (
            Source(lambda problem, index: replace(problem, metadata={"x": {1}})),
            r"Source\[0\]\.metadata must be something that JSON can hold: it raised TypeError",
        ),
        (
            Source(lambda problem, index: replace(problem, metadata={"x": float("nan")})),
            r"Source\[0\]\.metadata must be something that JSON can hold: it raised ValueError",
        ),
        (with_answer("seven"), r"Source\[0\]\.answer must be a number, got 'seven': correct it"),
        (
            with_answer("one\ntwo", "text"),
            r"must be graded correct when stated as .* got wrong, read 'one' of 'one\\ntwo'",
        ),
        (Rolling(), r"Rolling\[-1\] is out of range and must raise IndexError, got Problem"),
    ],
)
def test_a_source_that_breaks_a_promise_is_refused(source, message):
    with pytest.raises(ConformanceError, match=message):
        check_problem_source(source)


def test_an_error_of_the_wrong_kind_out_of_range_is_refused():
    class Lookup(Source):
        def __getitem__(self, index):
            return {place: SUM for place in range(self.length)}[index]

    with pytest.raises(ConformanceError, match=r"Lookup\[-1\] .* IndexError, it raised KeyError"):
        check_problem_source(Lookup())


def test_two_sources_that_share_a_problem_are_refused():
    with pytest.raises(ConformanceError, match=r"must share no problem: .* 10 of b are in a"):
        check_problem_source(Source(), Source(length=10))
    with pytest.raises(ValueError, match="samples must be at least 2, got 1"):
        check_problem_source(Source(), samples=1)
