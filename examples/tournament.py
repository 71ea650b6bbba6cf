"""A tournament between saved adapters of the embedded model: ``tournament.py [FOLDER ...]``.

What is measured: how often each adapter is right, all on the same problems; and in pairs, how
often one is right where the other is wrong, as strength (Bradley-Terry) and as rating (OpenSkill,
which depends on the order of games). The pairs are decided by a judge that knows the answers: a
model of 135 million weights is no judge. The last columns say how it judges nonetheless: how often
a verdict cannot be read, and how often it changes with the order of the two attempts. Without
folders, four random adapters play.
"""

import sys
import tempfile
from pathlib import Path

from agents import LoraPopulation, load_base, rollout
from evolution.operators.mutation_weights import spread
from populora_env import Grader, Phase, ReasoningArena, load_problems
from populora_env.judges.bias import judge_statistics
from populora_env.judges.builtin import AnswerJudge
from populora_env.ratings import Ratings, bradley_terry

base = load_base("embedded", products="auto")
with tempfile.TemporaryDirectory() as made:
    folders = [Path(folder) for folder in sys.argv[1:]]
    if not folders:
        newborn = LoraPopulation(base, size=4, rank=4)
        spread(newborn.lora, strength=0.15, seed=1)
        folders = newborn.save_adapters(made)
        newborn.lora.detach()
    players = LoraPopulation.from_adapters(base, folders)

spec = "procedural:chain_sum(max_terms=2,max_digits=1)+products(max_digits=1)"
problems = load_problems(spec, split="test").distinct(12)
with Grader() as grader:
    judge, by = AnswerJudge(grader), "external_judge"
    arenas = [
        ReasoningArena([problem], players.size, judge=judge, rewards=by, grader=grader)
        for problem in problems
    ]
    limits = {Phase.SOLVE: 24, Phase.COMPARE: 8}
    episodes = rollout(players.greedy(), arenas, problems, limits=limits)

pairs = [pair for episode in episodes for pair in episode.evaluations if pair.judge is None]
fit, ratings, judging = bradley_terry(players.agents, pairs), Ratings(), judge_statistics(episodes)
ratings.update(pairs)
print(f"{len(problems)} problems, {len(pairs)} pairs")
print("agent    accuracy  strength ± s.e.  rating ± sigma  unreadable  flipped  folder")
for i, agent in enumerate(players.agents):
    grades = [episode.attempts[i].grade for episode in episodes]
    accuracy = sum(grade is not None and grade.correct is True for grade in grades) / len(grades)
    rating, own = ratings.rating(agent), judging[agent]
    flipped = "-" if own.flip_rate is None else f"{own.flip_rate:.2f}"
    print(
        f"{agent}  {accuracy:8.2f}  {fit.strengths[i]:+8.2f} ± {fit.standard_errors[i]:.2f}  "
        f"  {rating.mu:5.1f} ± {rating.sigma:.1f}      {own.abstention_rate:5.2f}  {flipped:>7}  "
        f"{folders[i].name}"
    )
