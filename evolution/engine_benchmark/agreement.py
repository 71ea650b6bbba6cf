"""The row ``agreement`` of ``populora bench-engine``: a request alone and in a full batch.

Which rows a matrix product has decides in which order it adds up, so the last digits differ, and
where two tokens are almost equally likely, so may the token. The row counts how often that happens.
"""

from agents.engine.generation import generate
from evolution.engine_benchmark.workbench import Workbench, stacked

REQUESTS = 512
TEMPERATURES = {"greedy": 0.0, "sampled": 0.8}


def agreement_row(bench: Workbench) -> None:
    """Share of requests whose reply is the same alone as among all others, token by token."""
    sizes, base = bench.sizes, bench.base
    size = sizes.agents[0]
    count = max(REQUESTS * sizes.rows // 64 // size, 1) * size
    jobs = bench.requests(size, 0, count)
    attachment = stacked(base.model, size, sizes.rank, sizes.seed)
    for name, temperature in TEMPERATURES.items():
        with attachment.on() as lora:
            crowd = generate(base, lora, jobs, temperature=temperature, max_rows=sizes.rows)
            same: list[float] = []
            for number, (job, reply) in enumerate(zip(jobs, crowd, strict=True)):
                bench.tell(f"{name}, alone", number / count)
                alone = generate(base, lora, [job], temperature=temperature)[0]
                same.append(float(alone.ids == reply.ids))
        key = f"agreement_{name}"
        bench.findings.rounds[key] = (sum(same) / count,)
        what = f"same reply alone and among {count}, {name}"
        bench.findings.add(key, what, bench.findings.rounds[key])
