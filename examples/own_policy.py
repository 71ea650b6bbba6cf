"""A policy of your own in the arena: no model, no torch."""

import re

from agents import FunctionPolicy, rollout
from populora_env import ReasoningArena, load_problems
from populora_env.records import Phase


def answer(prompt: str) -> str:
    """Add up the numbers of the problem; as a judge, call everything a tie."""
    if "Attempt A" in prompt:
        return "tie"
    found = re.search(r": ([-+ \d]+) =", prompt)
    terms = found[1].replace(" ", "") if found else "0"
    total = sum(int(term) for term in re.findall(r"[-+]?\d+", terms))
    return f"Answer: {total}"


problems = load_problems("procedural:chain_sum(max_terms=3,max_digits=2)", seed=1).distinct(4)
arenas = [ReasoningArena([problem], num_agents=3, seed=1) for problem in problems]
for transcript in rollout(FunctionPolicy(answer), arenas, problems):
    solved = [turn.reply for turn in transcript.turns if turn.phase is Phase.SOLVE]
    print(transcript.problem.prompt[-24:], "->", solved[0], dict(transcript.rewards))
    assert all(attempt.grade and attempt.grade.correct for attempt in transcript.attempts)
for arena in arenas:
    arena.close()
