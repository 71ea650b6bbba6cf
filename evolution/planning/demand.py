"""What a run's settings ask of memory."""

from collections.abc import Mapping

from agents.engine.jobs import Feature
from evolution.config import Learner, RunConfig
from evolution.fitness.evaluator import FitnessEvaluator
from evolution.planning.memory import Demand
from evolution.planning.replies import generation_replies
from evolution.run_problems import reply_limits
from populora_env.records import Phase


def demand_of(
    config: RunConfig, prompts: Mapping[Phase, int], *, on_gpu: bool, shared: int = 0
) -> Demand:
    """The demand of a run.

    Args:
        config: Its settings; ``products`` is no longer ``auto``.
        prompts: Tokens of the longest prompt of each phase.
        on_gpu: Whether the base is on one.
        shared: Tokens that all prompts begin with.
    """
    limits, replies = reply_limits(config), generation_replies(config, config.size)
    rows = {phase: min(config.max_rows, count) for phase, count in replies.items()}
    longest = max(replies, key=lambda phase: rows[phase] * (prompts[phase] + limits[phase]))
    learns = config.learner is not Learner.NONE
    whole = prompts[Phase.SOLVE] + limits[Phase.SOLVE]
    tokens = sum(count * (prompts[phase] + limits[phase]) for phase, count in replies.items())
    batch = max(min(config.tokens_per_batch, tokens), whole)
    return Demand(
        dtype=config.dtype,
        products=config.products.value,
        four_bits=config.load_in_4bit,
        on_gpu=on_gpu,
        size=config.size,
        rank=config.rank,
        adapter_dtype=config.adapter_dtype or "",
        learns=learns,
        checkpointing=config.gradient_checkpointing,
        rows=config.max_rows,
        replies=replies[longest],
        prompts=-(-replies[longest] // config.size),
        prompt=prompts[longest],
        shared=shared,
        reply=limits[longest],
        sampled=config.resolved(config.size).temperature > 0,
        distributions=Feature.DISTRIBUTIONS in FitnessEvaluator(config).needs,
        kept=sum(replies.values()),
        batch=batch,
        batches=-(-tokens // batch),
        learned_rows=max(1, batch // whole),
        predicted=limits[Phase.SOLVE] / whole,
    )
