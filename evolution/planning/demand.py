"""What a run's settings ask of memory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from agents.engine.jobs import Feature
from evolution.config import Learner, Rows, RunConfig
from evolution.fitness.evaluator import FitnessEvaluator
from evolution.planning.replies import generation_replies, most_readers
from evolution.run_problems import reply_limits
from populora_env.records import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a run asks of the machine's memory.

    Attributes:
        dtype: Of the base's weights.
        products: Precision of its products, on a CPU in float32.
        four_bits: Whether its linear layers are kept in 4 bits.
        on_gpu: Whether all this is to lie on a GPU; the process then lies elsewhere.
        size: Agents, N.
        rank: Of their adapters.
        adapter_dtype: Of their weights; empty for the base's.
        learns: Whether there is a learner.
        learns_rows: Whether it learns the rows A, too.
        checkpointing: Whether it computes activations again.
        rows: Most that are decoded at once.
        replies: That are asked for at once; fewer than rows hold fewer rows.
        prompts: Different prompts of an agent among them; each is read once.
        prompt: Tokens of the longest prompt.
        shared: Tokens that all prompts begin with.
        reply: Tokens of the longest reply.
        sampled: Whether tokens are drawn, and not the likeliest.
        distributions: Whether replies carry their mean token distribution.
        kept: Replies that are kept until the generation has been learned from.
        batch: Places of a batch of learning.
        batches: Of a learning step; from the second on, gradients lie beside activations.
        learned_rows: Rows of a batch of learning; each reads its agent's factors, copied unless
            all agents have as many rows.
        even: Whether they have.
        predicted: Share of the places that are reply tokens, which alone get logits.
        champion: Whether a snapshot of the best is held, and another made of a rival.
        saves: Whether generations are saved.
        guarded: Whether a guard holds a snapshot of each agent.
    """

    dtype: str = "float32"
    products: str = "float32"
    four_bits: bool = False
    on_gpu: bool = False
    size: int = 8
    rank: int = 8
    adapter_dtype: str = ""
    learns: bool = True
    learns_rows: bool = True
    checkpointing: bool = False
    rows: int = 96
    replies: int = 96
    prompts: int = 8
    prompt: int = 64
    shared: int = 0
    reply: int = 24
    sampled: bool = True
    distributions: bool = False
    kept: int = 0
    batch: int = 2048
    batches: int = 2
    learned_rows: int = 1
    even: bool = False
    predicted: float = 0.5
    champion: bool = True
    saves: bool = True
    guarded: bool = False


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
    tries = config.tries if longest is Phase.SOLVE else 1
    learns = config.learner is not Learner.NONE
    whole = prompts[Phase.SOLVE] + limits[Phase.SOLVE]
    own = config.learn_judging or config.learner is Learner.REJECTION
    learned = [p for p in replies if own or p in (Phase.SOLVE, Phase.PROPOSE)]
    common = shared if by_tree else 0
    tokens = math.ceil(
        useful
        * most_readers(config)
        * sum(replies[p] * (prompts[p] - common + filled * limits[p]) for p in learned)
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
        learns_rows=config.rows is not Rows.SHARED,
        checkpointing=config.gradient_checkpointing,
        rows=config.max_rows,
        replies=replies[longest],
        prompts=-(-replies[longest] // (config.size * tries)),
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
        guarded=config.guard != "off",
    )
