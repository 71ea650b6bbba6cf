"""The rows of ``populora bench-engine``: what each figure is, and who takes part.

Every row puts its figures into the workbench's findings. Decoding is timed from the moment the
logits after the prompts are there (`decode_seconds`); replies have a fixed length there, and their
natural one in the rollout. Other libraries, which take most of the time, take part in fewer rounds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import numpy as np

from agents.engine.adapters import StackedLora
from agents.engine.generation import generate
from agents.engine.jobs import Decoded, DecodeStats, Job
from agents.learning.learners import LearnerConfig, PolicyGradient, Sample
from agents.loading.models import BaseModel
from evolution.config import EvolutionConfig, Learner
from evolution.engine_benchmark.peers import (
    NOT_INSTALLED,
    PeftPeer,
    PopuloraPackage,
    imported,
    sampled_rate,
)
from evolution.engine_benchmark.timing import Contender
from evolution.engine_benchmark.workbench import (
    SPREAD,
    Attachment,
    EndlessBase,
    Workbench,
    decode_seconds,
    seconds,
    stacked,
)
from evolution.individuals.breeding import Breeder
from evolution.individuals.lineage import Lineage
from evolution.operators.selection import Candidates
from populora_env.keys import generator

TEMPERATURE = 0.8  # of sampled replies, as a run's default


def decoding_row(bench: Workbench) -> None:
    """Tokens per second after the prompt: the population, the bare base, and peers."""
    sizes, base = bench.sizes, bench.base
    tokens = sizes.rows * sizes.new_tokens
    prompts = bench.prompts(sizes.rows)
    endless = EndlessBase.of(base)

    def rate(taken: Callable[[], float], _: int) -> float:
        return tokens / taken()

    contenders: dict[str, Contender] = {
        "base_decode": partial(rate, lambda: _decode(endless, None, prompts, sizes.new_tokens, 0))
    }
    reasons = {name: _left_out(bench, name) for name in ("peft", "populora")}
    peft, package = (not reason for reason in reasons.values())
    for size in sizes.agents:
        attachment = stacked(base.model, size, sizes.rank, sizes.seed)

        def ours(attachment: Attachment = attachment, size: int = size) -> float:
            with attachment.on() as lora:
                return _decode(endless, lora, prompts, sizes.new_tokens, size)

        contenders[f"population_decode_{size}"] = partial(rate, ours)
        if package:
            other = PopuloraPackage(bench.plain, attachment.owner)
            contenders[f"populora_package_decode_{size}"] = partial(
                rate, partial(other.decode_seconds, prompts, sizes.new_tokens)
            )
        if peft and size == max(sizes.agents):
            peer = PeftPeer(bench.plain, attachment.owner)
            for n in sizes.agents:
                contenders[f"peft_mixed_decode_{n}"] = partial(
                    rate, partial(peer.mixed_seconds, prompts, sizes.new_tokens, n)
                )
            first = sizes.agents[0]
            contenders[f"peft_one_by_one_decode_{first}"] = partial(
                rate, partial(peer.one_by_one_seconds, prompts, sizes.new_tokens, first)
            )
    bench.race(contenders, peers=_of_others(contenders))
    found = bench.findings
    rate_of_base = found.rounds["base_decode"]
    found.add("base_decode_tokens_per_second", "bare base decodes, tokens/s", rate_of_base)
    for size in sizes.agents:
        of = f"{size} agents, decoding / base"
        found.ratio(
            f"population_decode_ratio_{size}", of, f"population_decode_{size}", "base_decode"
        )
        rows = [("peft_mixed", "PEFT mixed batch"), ("populora_package", "populora")]
        if size == sizes.agents[0]:
            rows.insert(1, ("peft_one_by_one", "PEFT one by one"))
        for name, who in rows:
            key, reason = f"{name}_decode_ratio_{size}", reasons[name.partition("_")[0]]
            if reason:
                found.missing(key, f"{who}, {of}", reason)
            else:
                found.ratio(key, f"{who}, {of}", f"{name}_decode_{size}", "base_decode")


def _left_out(bench: Workbench, package: str = "") -> str:
    """Why another library does not take part; empty if it does.

    Args:
        bench: Says in how many rounds others take part.
        package: The library; empty for one that is always there.
    """
    if package and imported(package) is None:
        return NOT_INSTALLED
    return "" if bench.sizes.peer_rounds else "left out: peer-rounds is 0"


def _of_others(contenders: Iterable[str]) -> list[str]:
    """Those of other libraries."""
    return [name for name in contenders if name.startswith(("peft_", "populora_", "transformers_"))]


def _decode(
    base: BaseModel,
    lora: StackedLora | None,
    prompts: Sequence[Sequence[int]],
    steps: int,
    size: int,
) -> float:
    """Seconds of so many decoding steps of our engine, every agent with an equal share of rows."""
    return decode_seconds(
        base.model, steps, lambda: decode_greedily(base, lora, prompts, steps, size)
    )


def decode_greedily(
    base: BaseModel,
    lora: StackedLora | None,
    prompts: Sequence[Sequence[int]],
    steps: int,
    size: int,
) -> list[Decoded]:
    """Replies of ``steps + 1`` tokens, the first of which comes with the prompt."""
    each = len(prompts) // size if size else 0
    jobs = [Job(i // each if each else None, ids, steps + 1, i) for i, ids in enumerate(prompts)]
    return generate(base, lora, jobs, temperature=0.0, max_rows=len(prompts))


def rollout_row(bench: Workbench) -> None:
    """Useful tokens per second of a rollout, prompts included, against plain ``generate``."""
    sizes, base = bench.sizes, bench.base
    size = sizes.agents[0]
    attachment = stacked(base.model, size, sizes.rank, sizes.seed)
    stop = sorted(base.stop_ids())

    def ours(number: int) -> float:
        jobs, replies = bench.requests(size, number, sizes.rows), list[Decoded]()
        with attachment.on() as lora:
            taken = seconds(
                base.device,
                lambda: replies.extend(
                    generate(base, lora, jobs, temperature=TEMPERATURE, max_rows=sizes.rows)
                ),
            )
        return sum(len(reply.ids) + reply.finished for reply in replies) / taken

    def theirs(number: int) -> float:
        prompts = [job.prompt_ids for job in bench.requests(size, number, sizes.rows)]
        return sampled_rate(bench.plain, stop, prompts, sizes.reply_tokens, sizes.seed + number)

    ran, other = f"population_rollout_{size}", "transformers_generate_base"
    found, reason = bench.findings, _left_out(bench)
    if not reason:
        bench.tell("loading the model for generate")
        bench.plain  # noqa: B018  (loads it before the clock runs)
    bench.race({ran: ours} if reason else {ran: ours, other: theirs}, peers=[other])
    key, what = f"rollout_vs_generate_{size}", f"{size} agents, rollout / generate of base"
    if reason:
        found.missing(key, what, reason)
    else:
        found.ratio(key, what, ran, other)
    found.add(f"{ran}_tokens_per_second", "the rollout, useful tokens/s", found.rounds[ran])


def slots_row(bench: Workbench) -> None:
    """Useful tokens over slots times steps, with three requests for every slot."""
    key, what = "slot_efficiency", "useful tokens / (slots x steps)"
    sizes, base = bench.sizes, bench.base
    size = sizes.agents[0]
    attachment = stacked(base.model, size, sizes.rank, sizes.seed)

    def share(number: int) -> float:
        jobs, stats = bench.requests(size, number, 3 * sizes.rows), DecodeStats()
        with attachment.on() as lora:
            generate(base, lora, jobs, temperature=TEMPERATURE, max_rows=sizes.rows, stats=stats)
        return stats.slot_efficiency

    bench.race({key: share}, warmup=0)
    bench.findings.add(key, what, bench.findings.rounds[key])


def evolution_row(bench: Workbench) -> None:
    """Seconds of one evolution step: select, cross and mutate half of the population."""
    sizes, reason = bench.sizes, _left_out(bench, "populora")
    contenders: dict[str, Contender] = {}
    for size in sizes.agents:
        attachment = stacked(bench.base.model, size, sizes.step_rank, sizes.seed)
        contenders[f"evolution_step_seconds_{size}"] = evolution_step(
            attachment.owner, bench.base, sizes.seed
        )
        if not reason:
            other = PopuloraPackage(bench.plain, attachment.owner)

            def step(number: int, other: PopuloraPackage = other, size: int = size) -> float:
                return other.evolve_seconds(_fitness(sizes.seed, number, size))

            contenders[f"populora_package_evolution_step_seconds_{size}"] = step
    bench.race(contenders, peers=_of_others(contenders))
    for size in sizes.agents:
        for name, who in (("", ""), ("populora_package_", "populora, ")):
            key = f"{name}evolution_step_seconds_{size}"
            what = f"{who}{size} agents, evolution step, s"
            if key in contenders:
                bench.findings.add(key, what, bench.findings.rounds[key])
            else:
                bench.findings.missing(key, what, reason)


def evolution_step(lora: StackedLora, base: BaseModel, seed: int) -> Contender:
    """A contender that replaces the lesser half of a population by mutated children."""
    config = EvolutionConfig(
        seed=seed, offspring=lora.size // 2, elites=1, parents=min(2, lora.size),
        learner=Learner.NONE, spread=SPREAD,
    )  # fmt: skip
    breeder = Breeder(lora, config, config.resolved(lora.size), Lineage())
    breeder.found()
    generations = iter(range(1, 1_000_000))

    def step(number: int) -> float:
        fitness = Candidates.of(_fitness(seed, number, lora.size))
        return seconds(base.device, lambda: breeder.breed(next(generations), fitness))

    return step


def _fitness(seed: int, number: int, size: int) -> np.ndarray:
    return generator("bench-engine fitness", seed, number, size).standard_normal(size)


def learning_row(bench: Workbench) -> None:
    """One gradient step for all adapters together, against PEFT's steps one after the other.

    And six agents with a reply each to every problem, against one agent with the same six replies.
    """
    sizes, base = bench.sizes, bench.base
    size = sizes.agents[0]
    attachment = stacked(base.model, size, sizes.rank, sizes.seed)
    reason = _left_out(bench, "peft")
    config = LearnerConfig()
    bench.tell("replies to learn from")
    with attachment.on() as lora:
        samples = learning_samples(base, lora, bench.requests(size, 0, sizes.rows), sizes.seed)
        learner = PolicyGradient(base, lora, config)

    def joint(_: int) -> float:
        with attachment.on():
            return seconds(base.device, lambda: learner.step(samples))

    ran, other = f"joint_learning_seconds_{size}", f"peft_learning_seconds_{size}"
    contenders: dict[str, Contender] = {ran: joint}
    if not reason:
        steps = PeftPeer(bench.plain, attachment.owner).learner(config)
        contenders[other] = lambda _: steps(samples)
    several, one = "learning_seconds_six_agents", "learning_seconds_one_agent"
    contenders |= _six_and_one(bench, several, one)
    bench.race(contenders, peers=_of_others(contenders))
    found = bench.findings
    key, what = f"joint_learning_speedup_{size}", f"learning, {size} PEFT steps / joint step"
    if reason:
        found.missing(key, what, f"peft {reason}")
    else:
        found.ratio(key, what, other, ran)
    found.add(ran, f"{size} agents, learning step, s", found.rounds[ran])
    what = "learning, 6 agents with a reply each / 1 with all six"
    found.ratio("learning_six_agents_vs_one", what, several, one)
    found.add(several, "6 agents with a reply each, learning step, s", found.rounds[several])


def _six_and_one(bench: Workbench, several: str, one: str) -> dict[str, Contender]:
    """Learning steps from the same replies: each agent from its own, and one agent from all."""
    base, sizes = bench.base, bench.sizes
    count = max(sizes.rows // 6, 1) * 6
    attachment = stacked(base.model, 6, sizes.rank, sizes.seed)
    with attachment.on() as lora:
        own = learning_samples(base, lora, bench.requests(6, 0, count), sizes.seed)
        learner = PolicyGradient(base, lora)

    def step(samples: Sequence[Sample], _: int) -> float:
        with attachment.on():
            return seconds(base.device, lambda: learner.step(samples))

    of_one = [replace(sample, agent=0) for sample in own]
    return {several: partial(step, own), one: partial(step, of_one)}


def learning_samples(
    base: BaseModel, lora: StackedLora, jobs: Sequence[Job], seed: int
) -> list[Sample]:
    """The agents' own sampled replies to these jobs, with advantages of both signs."""
    replies = generate(base, lora, jobs, temperature=TEMPERATURE, max_rows=len(jobs))
    advantages = generator("bench-engine advantages", seed).standard_normal(len(jobs))
    end = min(base.stop_ids())
    samples: list[Sample] = []
    for job, reply, advantage in zip(jobs, replies, advantages.tolist(), strict=True):
        ids = (*reply.ids, end) if reply.finished else reply.ids
        samples.append(Sample(job.agent or 0, job.prompt_ids, ids, advantage))
    return samples


ROWS: Mapping[str, Callable[[Workbench], None]] = MappingProxyType(
    {
        "decoding": decoding_row,
        "rollout": rollout_row,
        "slots": slots_row,
        "evolution": evolution_row,
        "learning": learning_row,
    }
)
