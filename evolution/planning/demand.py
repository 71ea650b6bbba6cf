"""What a run's settings ask of memory."""

import math
from collections.abc import Mapping

from agents.engine.jobs import Feature
from evolution.config import Learner, RunConfig
from evolution.fitness.evaluator import FitnessEvaluator
from evolution.planning.memory import Demand
from evolution.planning.replies import generation_replies
from evolution.run_problems import reply_limits
from populora_env.records import Phase


def demand_of(
    config: RunConfig,
    prompts: Mapping[Phase, int],
    *,
    on_gpu: bool,
    shared: int = 0,
    by_tree: bool = False,
    useful: float = 1.0,
    filled: float = 1.0,
) -> Demand:
    """The demand of a run.

    Args:
        config: Its settings; ``products`` is no longer ``auto``.
        prompts: Tokens of the longest prompt of each phase.
        on_gpu: Whether the base is on one.
        shared: Tokens that all prompts begin with.
        by_tree: Whether an agent's replies that begin alike are learned from in one row.
        useful: Share of the replies that are learned from, at most.
        filled: Share of their limit that replies are long, at most.
    """
    limits, replies = reply_limits(config), generation_replies(config, config.size)
    rows = {phase: min(config.max_rows, count) for phase, count in replies.items()}
    longest = max(replies, key=lambda phase: rows[phase] * (prompts[phase] + limits[phase]))
    learns = config.learner is not Learner.NONE
    whole = prompts[Phase.SOLVE] + limits[Phase.SOLVE]
    own = config.learn_judging or config.learner is Learner.REJECTION
    learned = [p for p in replies if own or p in (Phase.SOLVE, Phase.PROPOSE)]
    common = shared if by_tree else 0
    tokens = math.ceil(
        useful * sum(replies[p] * (prompts[p] - common + filled * limits[p]) for p in learned)
    )
    batch = max(min(config.tokens_per_batch, tokens), whole)
    each = max(tokens // config.size, whole) if by_tree and shared else whole
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
        learned_rows=max(1, batch // each),
        predicted=limits[Phase.SOLVE] / whole,
    )
