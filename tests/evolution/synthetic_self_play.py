"""A folder of a self-play run as populora evolve writes one, made up: no model is needed.

Proposers write sums; how they go on over the run is a function of its time, from 0 to 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from evolution.individuals.lineage import Individual, Lineage
from populora_env.proposals.record import Proposal, ProposalStatus
from populora_env.proposals.source import novelty
from populora_env.records import (
    Attempt,
    Evaluation,
    Grade,
    GradeStatus,
    Preference,
    Problem,
    ReplyStatus,
    Transcript,
    Verdict,
)

CONFIG = """[config]
model = "made-up"
problems = "self-play:expressions(operators='+-',digits=2,terms=2)"
generations = {generations}
size = {agents}
rank = 4
seed = 3
rewards = "learnability"
evaluation = "{evaluation}"
learner = "policy-gradient"
proposers = {proposers}
tries = {tries}

[versions]
populora-env = "0.1.0"
"""
REFUSED = (ProposalStatus.UNREADABLE, ProposalStatus.OUT_OF_RANGE, ProposalStatus.HELD_OUT)


@dataclass
class Wish:
    """What a proposer comes up with: None for what is no task, else numbers and how hard it is."""

    numbers: tuple[int, ...] | None
    chance: float = 0.5


def healthy(rng, time):
    """Ever better at being valid, always about anything, near the solvers' limit."""
    if rng.random() < 0.4 - 0.3 * time:
        return Wish(None)
    size = 2 + (rng.random() < 0.3 + 0.4 * time)
    chance = float(np.clip(rng.normal(0.35 + 0.3 * time, 0.2), 0.05, 0.95))
    return Wish(tuple(int(n) for n in rng.integers(1, 100, size)), chance)


def struggling(rng, time):
    """As the embedded model is at first: often no task, half of what is one nobody solves."""
    if rng.random() < 0.55 - 0.45 * time:
        return Wish(None)
    chance = float(rng.choice([0.0, 0.15, 0.5, 0.9], p=[0.35, 0.3, 0.2, 0.15]))
    return Wish(tuple(int(n) for n in rng.integers(1, 100, 2)), chance)


def copying(rng, time):
    """Ends up writing one problem, or nearly, over and over."""
    if rng.random() > max(0.0, 1.4 * time - 0.2):
        return healthy(rng, time)
    return Wish((12, 30 + int(rng.integers(40)), 7), 0.5)


def near_copying(rng, time):
    """Ends up writing one problem with another number in it, so that none is a repeat."""
    if rng.random() > 0.9 * time:
        return healthy(rng, time)
    return Wish((12, int(rng.integers(1000, 10000)), 7), 0.5)


def repeating(rng, time):
    """Ends up writing what was there before, word for word."""
    if rng.random() > max(0.0, 1.4 * time - 0.2):
        return healthy(rng, time)
    return Wish((10, int(rng.integers(1, 8))), 0.5)


def trivial(rng, time):
    """Ends up with what everybody solves."""
    wish = healthy(rng, time)
    wish.chance = wish.chance if rng.random() > 1.4 * time - 0.2 else 1.0
    return wish


def mostly_trivial(rng, time):
    """Ends up with what everybody solves, nine times in ten."""
    wish = healthy(rng, time)
    wish.chance = wish.chance if rng.random() > 0.95 * time else 1.0
    return wish


def hopeless(rng, time):
    """Ends up with what nobody solves."""
    wish = healthy(rng, time)
    wish.chance = wish.chance if rng.random() > 1.4 * time - 0.2 else 0.0
    return wish


def refused(rng, time):
    """Ends up with what is no task."""
    return Wish(None) if rng.random() < 1.4 * time - 0.2 else healthy(rng, time)


def write_self_play_run(
    folder,
    wishes=healthy,
    *,
    generations=12,
    proposers=3,
    solvers=3,
    proposals=12,
    tries=2,
    judged=False,
    reply=None,
    seed=0,
):
    """Write a run of self-play.

    Args:
        wishes: Function of a generator and the run's time to a `Wish`.
        proposers: How many only propose; 0 for agents that all do both.
        solvers: How many solve; of agents that do both, how many there are.
        proposals: In each generation.
        judged: Whether solvers compare each other's attempts.
        reply: Function of generation, agent and whether it is right to the text of an attempt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = tuple(f"agent_{i}" for i in range(proposers + solvers))
    writing, solving = names[:proposers] or names, names[proposers:]
    (folder / "run.toml").write_text(
        CONFIG.format(generations=generations, agents=len(names), proposers=proposers or '"all"',
                      tries=tries, evaluation="compare" if judged else "none")
    )  # fmt: skip
    lineage = Lineage()
    for slot in range(len(names)):
        lineage.add(Individual(f"g0-{slot}", slot, 0, "spread", (), {"strength": 0.04}, "00"))
    seen: list[tuple[str, tuple[str, ...]]] = []
    rows, lines = [], []
    for generation in range(generations):
        time = generation / max(generations - 1, 1)
        episodes = []
        for number in range(proposals):
            author = writing[number % len(writing)]
            free = tuple(n for n in solving if n != author) or (author,)
            episodes.append(_episode(rng, wishes(rng, time), generation, number, names, author,
                                     free, tries, seen, judged, reply))  # fmt: skip
        lines += [{"generation": generation, **episode.to_dict()} for episode in episodes]
        rows += _rows(generation, names, lineage, episodes, proposers)
    for file, entries in (("history.jsonl", rows), ("transcripts.jsonl", lines)):
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        (folder / file).write_text(text, encoding="utf-8")
    (folder / "lineage.json").write_text(json.dumps(lineage.state()))
    return folder


def _rows(generation, names, lineage, episodes, proposers):
    returns = {n: [e.rewards[n] for e in episodes if n in e.rewards] for n in names}
    marks = {n: [float(a.grade.correct) for e in episodes for a in e.attempts if a.agent == n]
             for n in names}  # fmt: skip
    wrote = {n: [e.proposal.valid for e in episodes if e.proposal.agent == n] for n in names}
    statuses = [episode.proposal.status.value for episode in episodes]
    best = max(names[proposers:], key=lambda n: np.mean(marks[n]) if marks[n] else -1.0)
    mean = lambda values: float(np.mean(values)) if values else None  # noqa: E731
    return [
        {
            "generation": generation, "agent": name, "individual": lineage.living[i].name,
            "operator": "spread", "parents": [], "return": mean(returns[name]),
            "accuracy": mean(marks[name]), "length": 20.0 if marks[name] else None,
            "diversity": 0.3 + 0.01 * (7 * generation % 5 + i) if marks[name] else None,
            "fitness": mean(returns[name]),
            "standing": 0.0, "rating": 25.0, "best": name == best, "grad_norm": 1.0,
            "validity": mean(wrote[name]),
            "proposals": {"count": len(episodes),
                          "statuses": {s: statuses.count(s) for s in dict.fromkeys(statuses)}},
        }
        for i, name in enumerate(names)
    ]  # fmt: skip


def _episode(
    rng, wish, generation, number, names, author, solvers, tries, seen, judged, reply
):  # fmt: skip
    request = Problem.create(f"Write. {generation}.{number}", None, "text", "self-play:x",
                             {"task": 0, "number": number})  # fmt: skip
    status, text, key, new, problem = ProposalStatus.VALID, "hm", "", None, request
    if wish.numbers is None:
        status = ProposalStatus(REFUSED[int(rng.integers(len(REFUSED)))])
    else:
        text = " + ".join(map(str, wish.numbers))
        tokens = tuple("+".join(map(str, sorted(wish.numbers))).replace("+", " + ").split())
        key = "".join(tokens)
        if any(key == other for other, _ in seen[-500:]):
            status = ProposalStatus.REPEATED
        else:
            new = novelty(tokens, [other for _, other in seen[-500:]])
            seen.append((key, tokens))
            measures = {"operands": len(wish.numbers), "largest": max(wish.numbers)}
            problem = Problem.create(
                f"What is {text}?", str(sum(wish.numbers)), source="self-play:expressions",
                metadata={"task": "expressions", "proposer": author, "request": request.id,
                          "tokens": list(tokens), "measures": measures},
            )  # fmt: skip
    valid = status is ProposalStatus.VALID
    reason = "" if valid else "for a reason"
    attempts = []
    for _ in range(tries if valid else 0):
        for agent in solvers:
            right = bool(rng.random() < wish.chance)
            answer = problem.answer if right else "8"
            said = f"It is {answer}" if reply is None else reply(generation, agent, right)
            grade = Grade(right, answer, GradeStatus.CORRECT if right else GradeStatus.WRONG,
                          rule="answer", strict=right)  # fmt: skip
            attempts.append(Attempt(agent, problem.id, said, answer, ReplyStatus.OK, grade))
    rate = float(np.mean([a.correct for a in attempts])) if attempts else None
    proposal = Proposal(
        author, "expressions", request.id, status, reason, text, key, new if valid else None, rate
    )
    rewards = {author: -1.0 if not valid else (1 - rate if rate else 0.0)}
    for attempt in attempts:
        rewards[attempt.agent] = rewards.get(attempt.agent, 0.0) + (
            1.0 if attempt.correct else -0.5
        )
    evaluations = []
    if judged and valid and len(solvers) > 2:
        for judge in solvers:
            first, second = (s for s in solvers if s != judge)
            shown = Preference(["A", "B"][int(rng.integers(2))])
            evaluations.append(
                Evaluation.from_verdicts(judge, first, second, Verdict(shown),
                                         Verdict(shown.mirrored))
            )  # fmt: skip
    return Transcript(
        problem, names, tuple(attempts), tuple(evaluations), (), rewards, generation,
        proposal=proposal,
    )  # fmt: skip
