"""A run folder as populora evolve writes one, made up: no model is needed."""

from __future__ import annotations

import json

import numpy as np

from evolution.individuals.lineage import Individual, Lineage
from evolution.reporting.measures.data import read_run_data
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
    Transcript,
    Verdict,
)

CONFIG = """[config]
model = "made-up"
problems = "procedural:chain_sum"
generations = {generations}
size = {agents}
rank = 4
seed = 3
rewards = "default"
evaluation = "compare"
learner = "policy-gradient"

[versions]
populora-env = "0.1.0"
"""
WORDS = [
    "then",
    "first",
    "we",
    "add",
    "the",
    "two",
    "numbers",
    "so",
    "that",
    "carry",
    "over",
    "gives",
    "sum",
    "result",
    "is",
]


def write_run(
    folder,
    *,
    generations=8,
    agents=4,
    problems=3,
    born_every=3,
    reply=None,
    prompt="Add the numbers.",
    known=True,
    seed=0,
):
    """Write a run in which accuracy rises from 0.3 to 0.8.

    Args:
        reply: Function of generation, agent number and whether the attempt is right, to its text.
        born_every: Generations from one birth to the next.
        known: Whether the right answers are known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = tuple(f"agent_{i}" for i in range(agents))
    (folder / "run.toml").write_text(CONFIG.format(generations=generations, agents=agents))
    lineage = Lineage()
    for slot in range(agents):
        lineage.add(Individual(f"g0-{slot}", slot, 0, "spread", (), {"strength": 0.04}, "00"))
    rows, lines = [], []
    for generation in range(generations):
        if generation and generation % born_every == 0:
            slot = int(rng.integers(agents))
            first, second = (lineage.living[int(i)].name for i in rng.choice(agents, 2, False))
            lineage.add(
                Individual(f"g{generation}-{slot}", slot, generation, "crossover",
                           (first, second), {"weights": [0.6, 0.4], "mutation": 0.01}, "01")
            )  # fmt: skip
        share = 0.3 + 0.5 * generation / max(generations - 1, 1)
        episodes = [
            _episode(rng, names, generation, number, share, reply, prompt, known)
            for number in range(problems)
        ]
        lines += [{"generation": generation, **episode.to_dict()} for episode in episodes]
        right = [
            [episode.attempts[i].grade.correct if known else np.nan for episode in episodes]
            for i in range(agents)
        ]
        returns = [np.mean([episode.rewards[name] for episode in episodes]) for name in names]
        for i, name in enumerate(names):
            rows.append({
                "generation": generation, "agent": name,
                "individual": lineage.living[i].name, "operator": lineage.living[i].operator,
                "parents": list(lineage.living[i].parents), "return": float(returns[i]),
                "accuracy": float(np.mean(right[i])) if known else None,
                "length": float(np.mean([len(e.attempts[i].text) for e in episodes])),
                "diversity": 0.05, "fitness": float(returns[i]) + 0.025,
                "standing": float(returns[i] - np.mean(returns)), "peer_strength": 0.0,
                "rating": 25.0, "best": i == int(np.argmax(returns)), "grad_norm": 1.0,
            })  # fmt: skip
    for file, entries in (("history.jsonl", rows), ("transcripts.jsonl", lines)):
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        (folder / file).write_text(text, encoding="utf-8")
    (folder / "lineage.json").write_text(json.dumps(lineage.state()))
    return folder


def write_measured(folder, *, problems=8):
    """Add what is measured beside the evolution."""
    run = read_run_data(folder)
    best, last = run.best[-1], run.generations[-1]
    marks = {"base": [True] * 3 + [False] * 5, best: [True] * 6 + [False] * 2}
    rows = [{"agent": who, "correct": mark} for who, own in marks.items() for mark in own]
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = {"problems": problems, "base": 3 / 8, "best": 6 / 8, "mean": 0.5, "vote": 0.625}
    summary = {"generations": last + 1, "held_out": held_out}
    (folder / "summary.json").write_text(json.dumps(summary))
    curve = [
        {"generation": g, "agent": a, "accuracy": 0.3 + 0.05 * g, "problems": 8}
        for g in range(1, last + 3, 2)  # the last one is of a generation that never finished
        for a in (("base",) if g == 1 else ()) + run.agents
    ]
    (folder / "held_out_curve.jsonl").write_text("".join(json.dumps(r) + "\n" for r in curve))
    change = {"base": 0.5, "mean": 0.2, "change": -0.3, "standard_error": 0.05}
    results = [
        {"task": "inside", "outside": False, "problems": 50, "change": {**change, "change": 0.1}},
        {"task": "elsewhere", "outside": True, "problems": 60, "change": change},
        {"task": "alone", "outside": True, "problems": 60, "change": None},
    ]
    bench = folder / "bench" / f"generation_{last:04d}"
    bench.mkdir(parents=True)
    (bench / "results.json").write_text(json.dumps({"results": results}))
    return folder


def _episode(rng, names, generation, number, share, reply, prompt, known):
    right = rng.random(len(names)) < share
    problem = Problem.create(f"{prompt} {generation}.{number}", "7" if known else None)
    attempts = tuple(
        _attempt(rng, problem, name, i, generation, bool(right[i]), reply, known)
        for i, name in enumerate(names)
    )
    evaluations, assessments = [], []
    for i, judge in enumerate(names):
        others = [n for n in range(len(names)) if n != i]
        first, second = (int(n) for n in rng.choice(others, 2, False))
        shown = Preference(["A", "B", "tie"][int(rng.integers(3))])
        back = shown.mirrored if rng.random() < 0.7 else Preference.A
        verdicts = [Verdict(shown), Verdict(back)]
        if rng.random() < 0.2:
            verdicts[1] = Verdict(None, ReplyStatus.UNREADABLE)
        evaluations.append(Evaluation.from_verdicts(judge, names[first], names[second], *verdicts))
        assessments.append(
            Assessment(judge, names[first], Phase.SCORE, float(rng.integers(11)) / 10, "7",
                       ReplyStatus.OK)
        )  # fmt: skip
    return Transcript(
        problem, names, attempts, tuple(evaluations), (),
        {name: float(right[i]) + 0.1 for i, name in enumerate(names)}, generation,
        tuple(assessments),
    )  # fmt: skip


def _attempt(rng, problem, name, number, generation, right, reply, known):
    if reply is not None:
        text = reply(generation, number, right)
    else:
        words = rng.choice(WORDS, int(rng.integers(5, 30))).tolist()
        text = " ".join(words) + f"\nAnswer: {7 if right else 8}"
    answer = "7" if right else "8"
    status = GradeStatus.CORRECT if right else GradeStatus.WRONG
    grade = Grade(right, answer, status, rule="answer", strict=right) if known else None
    return Attempt(name, problem.id, text, answer, ReplyStatus.OK, grade)
