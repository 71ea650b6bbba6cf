"""What the rows of the benchmark are tried on: a tiny model, and as little of it as will do."""

import pytest

from agents.loading.models import load_base
from evolution.engine_benchmark.workbench import Sizes, Workbench
from populora_env import load_problems

SUMS = "procedural:chain_sum(max_terms=2,max_digits=1)"
SIZES = Sizes(
    rounds=2,
    peer_rounds=1,
    rows=6,
    agents=(2, 3),
    rank=4,
    step_rank=3,
    new_tokens=5,
    reply_tokens=6,
    seed=1,
)


@pytest.fixture
def bench(model_folder):
    return Workbench(load_base(model_folder), load_problems(SUMS, split="train", seed=0), SIZES)
