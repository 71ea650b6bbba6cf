"""Play many arenas in lockstep, every pending prompt in one batch.

One arena is played per problem. At each step the prompts of all arenas go to the policy together,
which is what makes a population of adapters cheap to decode; so do all tries at a given problem.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agents.policy import Policy, Request, ask, check_policy, failures_said
from agents.progress import Progress
from populora_env.arena import ReasoningArena
from populora_env.keys import derive_seed
from populora_env.prompts import REPLY_TOKENS
from populora_env.records import Phase, Problem, Transcript


def rollout(
    policy: Policy,
    arenas: Sequence[ReasoningArena],
    problems: Sequence[Problem],
    *,
    key: Sequence[str | int] = (),
    limits: Mapping[Phase, int] = REPLY_TOKENS,
    progress: Progress | None = None,
) -> list[Transcript]:
    """Play one episode in each arena and return its transcript.

    Args:
        policy: Answers for all agents of all arenas.
        arenas: One arena per problem.
        problems: What each arena plays.
        key: Key of all random draws of this rollout, such as ``(run seed, generation)``. With the
            same key, problems and policy, the transcripts are the same.
        limits: Reply length by phase, in tokens; `REPLY_TOKENS` for phases not named.
        progress: Called with ``playing`` and the fraction of requests answered so far.

    Warns:
        RuntimeWarning: If the policy says that it failed to answer; see `failures_said`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there is not one problem per arena, or an arena is there twice.
        PolicyError: If the policy does not return one text per request.
    """
    check_policy(policy)
    _each("arenas", arenas, ReasoningArena, "make each with parallel_env(...)")
    _each("problems", problems, Problem, "make each with Problem.create(prompt, answer)")
    if len({id(arena) for arena in arenas}) != len(arenas):
        raise ValueError(
            "arenas: got the same arena more than once, expected one of its own for each problem"
        )
    if len(arenas) != len(problems):
        raise ValueError(
            f"problems: got {len(problems)} for {len(arenas)} arenas, expected as many"
        )
    with failures_said(policy):
        _play(policy, arenas, problems, key, {**REPLY_TOKENS, **limits}, progress)
    return [arena.transcript for arena in arenas]


def _play(
    policy: Policy,
    arenas: Sequence[ReasoningArena],
    problems: Sequence[Problem],
    key: Sequence[str | int],
    limits: Mapping[Phase, int],
    progress: Progress | None,
) -> None:
    """Play all arenas to their end."""
    pending = {
        i: arena.reset(
            seed=derive_seed("arena", *key, i, problem.id), options={"problem": problem}
        )[0]
        for i, (arena, problem) in enumerate(zip(arenas, problems, strict=True))
    }
    done = 0
    while pending:
        asked = [
            (i, later, agent, observation)
            for i, observations in pending.items()
            for later in range(1 + arenas[i].repeats)
            for agent, observation in observations.items()
            if observation["has_task"]
        ]
        requests = [
            Request(
                agent=agent,
                phase=Phase(observation["phase"]),
                prompt=observation["prompt"],
                max_new_tokens=limits[Phase(observation["phase"])],
                seed=derive_seed(
                    "reply", *key, i, problems[i].id, agent, observation["phase"],
                    int(observation["round"]) + later,
                ),
            )
            for i, later, agent, observation in asked
        ]  # fmt: skip
        actions = {
            i: [dict.fromkeys(arenas[i].agents, "") for _ in range(1 + arenas[i].repeats)]
            for i in pending
        }
        for (i, later, agent, _), reply in zip(asked, ask(policy, requests), strict=True):
            actions[i][later][agent] = reply
        done += len(requests)
        stepped = {i: [arenas[i].step(each)[0] for each in actions[i]][-1] for i in pending}
        pending = {i: observations for i, observations in stepped.items() if arenas[i].agents}
        if progress is not None:
            progress("playing", done / (done + sum(len(arenas[i].agents) for i in pending)))


def _each(name: str, values: Any, kind: type, fix: str) -> None:
    """Raise a TypeError unless ``values`` is a sequence of objects of one kind."""
    if isinstance(values, str | kind) or not isinstance(values, Sequence):
        got = type(values).__name__
        raise TypeError(f"{name} must be a sequence of {kind.__name__}, got {got}: {fix}")
    listed: Sequence[Any] = values
    for place, value in enumerate(listed):
        if not isinstance(value, kind):
            raise TypeError(
                f"{name}[{place}] must be a {kind.__name__}, got {type(value).__name__}: {fix}"
            )
