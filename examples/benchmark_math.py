"""Accuracy on MATH-500: four random adapters of the embedded model, and the base beside them."""

import os
import sys

from agents import LoraPopulation
from agents.measuring.benchmark import Participant, Sampling, benchmark
from evolution.operators.mutation_weights import spread
from populora_env import load_problems

folder = os.environ.setdefault("POPULORA_DATA", "../shared/data")
if not os.path.exists(f"{folder}/math500.jsonl"):
    print(f"no math500.jsonl in {folder}: set POPULORA_DATA to a folder that has it")
    sys.exit()
population = LoraPopulation.from_pretrained("embedded", size=4, rank=4, products="auto")
spread(population.lora, strength=0.1, seed=1)
problems = list(load_problems("math500", split="test", limit=3))
how = Sampling(temperature=0.8, max_new_tokens=128)  # few and short, to be quick
who = [Participant("base", apart=True), *population.agents]
result = benchmark(population, problems, who, preset="chat-v1", sampling=how, task="math500")
for rule, figures in result.figures.items():
    print(f"{rule:15} base {figures.accuracy['base'].value:.2f}, mean {figures.mean.value:.2f}, "
          f"vote {figures.vote.value:.2f}, pass@4 {figures.pass_at_k[3].value:.2f}, "
          f"agreement {figures.agreement:.2f}")  # fmt: skip
