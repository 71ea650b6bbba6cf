"""An engine with no model behind it: what it says is in a table."""

from __future__ import annotations

from types import SimpleNamespace

from torch import nn

from agents.engine.adapters import factors_hash
from agents.engine.jobs import BASE, DecodeStats, Reply
from agents.loading.models import BaseModel
from agents.population import LoraPopulation
from tests.conftest import make_tiny_tokenizer

TABLE = ("The answer is 4.", "The answer is 5.", "Attempt A is better.", "Attempt B is better.")


class TableEngine:
    """Says what a seed and an adapter's hash point to; never reads a job's row."""

    features = frozenset()
    max_rows = 16

    def __init__(self, table=TABLE):
        self.table, self.stats, self.jobs = table, DecodeStats(), []

    def generate(self, adapters, jobs, *, temperature, top_p, done=None):
        self.jobs += jobs
        held = {name: factors_hash(a.alpha, a.factors.values()) for name, a in adapters.items()}
        for job in jobs:
            adapter = BASE if job.adapter == BASE else held[job.adapter]
            place = job.seed + (0 if adapter == BASE else int(adapter, 16))
            text = self.table[place % len(self.table)][: job.max_new_tokens]
            reply = Reply(job.id, adapter, text, tuple(text.encode()))
            if done is not None:
                done(reply)
            yield reply


class Skeleton(nn.Module):
    """The shapes of a model: no weights, and nothing that could compute."""

    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(6, 6, device="meta")
        self.up_proj = nn.Linear(6, 10, device="meta")
        text = SimpleNamespace(max_position_embeddings=500)
        self.config = SimpleNamespace(get_text_config=lambda: text)

    def get_output_embeddings(self):
        return None


def table_population(engine, size=3):
    base = BaseModel("elsewhere", "elsewhere", Skeleton(), make_tiny_tokenizer())
    return LoraPopulation(base, size, 2, engine=engine)
