"""Accuracy on GSM8K: two random adapters of the embedded model, and the bare base beside them."""

import os
import sys

from agents import LoraPopulation
from agents.measuring.benchmark import Participant, Sampling, benchmark
from evolution.operators.mutation_weights import spread
from populora_env import load_problems

folder = os.environ.setdefault("POPULORA_DATA", "../shared/data")
if not os.path.exists(f"{folder}/gsm8k_test.jsonl"):
    print(f"no gsm8k_test.jsonl in {folder}: set POPULORA_DATA to a folder that has it")
    sys.exit()
population = LoraPopulation.from_pretrained("embedded", size=2, rank=4, products="auto")
spread(population.lora, strength=0.1, seed=1)
problems = list(load_problems("gsm8k", split="test", limit=3))
how = Sampling(max_new_tokens=64)  # few problems and short replies, to be quick
who = [Participant("base", apart=True), *population.agents]
result = benchmark(population, problems, who, preset="gsm8k-8shot-v1", sampling=how, task="gsm8k")
for rule, figures in result.figures.items():
    print(f"{rule:15} base {figures.accuracy['base'].value:.2f}, mean {figures.mean.value:.2f}, "
          f"vote {figures.vote.value:.2f}, pass@2 {figures.pass_at_k[1].value:.2f}, "
          f"agreement {figures.agreement:.2f}")  # fmt: skip
