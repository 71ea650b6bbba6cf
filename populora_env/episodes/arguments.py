"""Checks of the arena's arguments; each raises an error that names the argument and the fix."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from populora_env.episodes.episode import Rules
from populora_env.episodes.matchmaking import Matchmaking, min_agents, most_tasks
from populora_env.episodes.rewards import Labels, RewardWeights
from populora_env.errors import at_least_one, check_is_a, check_member, check_seconds
from populora_env.grading import Grader
from populora_env.judges import Judge, TimedJudge
from populora_env.reading.forms import FORMS
from populora_env.records import Phase, Problem


def read_rules(
    agents: Sequence[str],
    solving: int,
    *,
    evaluation: str | Sequence[str],
    judge: Judge | None,
    judge_load: Any,
    revise: Any,
    matchmaking: str,
    self_judging: Any,
    rewards: Any,
    judge_timeout: float | None,
    grader: Grader | None,
    max_reply_chars: Any,
) -> Rules:
    """Return the rules that an arena's arguments ask for; see `ReasoningArena`.

    ``agents`` are all of them, ``solving`` is how many solve a problem and judge its attempts.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.
    """
    max_reply_chars = at_least_one("max_reply_chars", max_reply_chars)
    loads = read_loads(judge_load)
    for name, flag in (("revise", revise), ("self_judging", self_judging)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")
    forms = read_forms(evaluation)
    written = [form for form in forms if FORMS[form].written]
    if revise and not written:
        raise ValueError(
            f"revise needs critiques to revise by: set evaluation='critique', got {evaluation!r}"
        )
    check_member("matchmaking", matchmaking, Matchmaking)
    weights = RewardWeights.preset(rewards) if isinstance(rewards, str) else rewards
    check_is_a("rewards", weights, RewardWeights, "RewardWeights(...) or the name of a preset")
    if grader is not None:
        check_is_a("grader", grader, Grader, "a Grader or None")
    check_seconds("judge_timeout", judge_timeout, or_none=True)
    if judge is None and weights.labels is Labels.JUDGE:
        raise ValueError("rewards ask for an external judge: pass one as judge=")
    load = {
        form: most_tasks(solving, FORMS[form].attempts, self_judging=self_judging)
        if matchmaking == Matchmaking.ROUND_ROBIN
        else loads[form]
        for form in forms
        if solving >= min_agents(FORMS[form].attempts, self_judging=self_judging)
    }
    return Rules(
        agents=tuple(agents),
        load=load,
        revise=revise and any(form in load for form in written),
        self_judging=self_judging,
        weights=weights,
        max_reply_chars=max_reply_chars,
        grader=grader or Grader(),
        judge=_with_limit(judge, judge_timeout),
    )


def _with_limit(judge: Judge | None, timeout: float | None) -> Judge | None:
    if judge is None:
        return None
    if not callable(getattr(judge, "judge", None)):
        raise TypeError(f"judge must have a method judge(comparisons), got {type(judge).__name__}")
    return judge if timeout is None or isinstance(judge, TimedJudge) else TimedJudge(judge, timeout)


def read_forms(evaluation: str | Sequence[str]) -> tuple[Phase, ...]:
    """Return the forms that ``score+compare`` or ``["score", "compare"]`` names, as played.

    Raises:
        ValueError: If one does not exist.
    """
    words: list[Any] = []
    if isinstance(evaluation, str):
        words = evaluation.split("+")
    elif isinstance(evaluation, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        words = list(evaluation)
    if words == ["none"]:
        return ()
    if not words or not all(word in set(FORMS) for word in words):
        names = ", ".join(repr(form.value) for form in FORMS)
        raise ValueError(
            f"evaluation must be 'none', or some of {names} joined by '+', got {evaluation!r}"
        )
    return tuple(form for form in FORMS if form in words)


def read_loads(load: Any) -> dict[Phase, int]:
    """Return the number of tasks in each form of evaluation."""
    if not isinstance(load, Mapping):
        return dict.fromkeys(FORMS, at_least_one("judge_load", load))
    given: Mapping[Any, Any] = load
    for form in given:
        if form not in set(FORMS):
            raise ValueError(f"judge_load must have keys among {', '.join(FORMS)}, got {form!r}")
    return {
        form: at_least_one(f"judge_load[{form.value!r}]", given.get(form.value, 1))
        for form in FORMS
    }


def read_options(options: Any) -> Mapping[Any, Any]:
    """Return the options; one that nobody knows is ignored, a misspelt one is not."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(
            f"options must be a mapping such as {{'problem': Problem}}, got {options!r:.80}"
        )
    given: Mapping[Any, Any] = options
    for name, value in given.items():
        near = isinstance(name, str) and difflib.get_close_matches(
            name.lower(), ["problem"], cutoff=0.8
        )
        if name != "problem" and (near or isinstance(value, Problem)):
            raise ValueError(f"options must hold the problem as 'problem', got {name!r}")
    return given


def read_actions(actions: Mapping[str, Any], agents: Sequence[str]) -> dict[str, str]:
    """Return the actions of the agents, in their order.

    Raises:
        ValueError: If an agent is missing or unknown.
        TypeError: If an action is not a string.
    """
    live = set(agents)
    missing = [agent for agent in agents if agent not in actions]
    unknown = [agent for agent in actions if agent not in live]
    if missing or unknown:
        said = [f"missing {', '.join(missing)}"] if missing else []
        said += [f"unknown {', '.join(map(repr, unknown))}"] if unknown else []
        raise ValueError(
            f"actions must hold one text for each of {len(live)} agents "
            f"({agents[0]} to {agents[-1]}): {'; '.join(said)}"
        )
    for agent, action in actions.items():
        if not isinstance(action, str):
            raise TypeError(
                f"the action of {agent} must be a string, got {type(action).__name__}: "
                "an agent with nothing to say answers with an empty string"
            )
    return {agent: actions[agent] for agent in agents}


def read_seed(value: Any) -> int:
    """Return a seed of any integer type, NumPy's included, as an int."""
    try:
        return int(value.__index__())
    except AttributeError:
        raise TypeError(f"seed must be an integer, got {value!r}") from None
