"""What the agents of a run learn from a generation.

The learners themselves are in `agents.learning.learners`; here episodes become samples.
"""

import math
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch

from agents.learning.advantages import ADVANTAGES
from agents.learning.learners import LearnerConfig, PolicyGradient, RejectionTuning, Sample
from agents.learning.rejection import RightReply, rejection_samples
from agents.population import LoraPopulation
from agents.workers.engine import WorkersEngine
from agents.workers.shards import shard_threads
from evolution.config import EvolutionConfig, Learner, Rows, Settings
from evolution.errors import ConfigError
from evolution.fitness.task import proposal_reward
from populora_env.episodes.rewards import RewardPart
from populora_env.records import Phase, Transcript, Turn

AnyLearner = PolicyGradient | RejectionTuning


def threads_of(config: EvolutionConfig) -> int:
    """CPU threads that a shard gets in this process; 0 to leave them as they are."""
    if config.shards == 1:
        return config.worker_cpus
    return shard_threads(config.worker_cpus, config.shards)


def make_learner(
    population: LoraPopulation, config: EvolutionConfig, settings: Settings
) -> AnyLearner | None:
    """The learner that a run's settings ask for; None for evolution alone.

    Raises:
        ConfigError: If the base has no weights to learn with.
    """
    if config.learner == Learner.NONE:
        return None
    workers = population.engine if isinstance(population.engine, WorkersEngine) else None
    if population.base.is_skeleton and workers is None:
        raise ConfigError(
            f"learner: got {config.learner.value!r}, but the base's weights are not here; set "
            "learner = 'none', or load the base"
        )
    factors = next(population.lora.parameters()).dtype
    if torch.float16 in (factors, population.base.model.dtype):
        warnings.warn(
            "dtype: float16 loses small gradients; bfloat16 or float32 learn from all of them",
            stacklevel=2,
        )
    learning = LearnerConfig(
        learning_rate=config.learning_rate,
        temperature=settings.temperature,
        epochs=config.epochs,
        minibatches=config.minibatches,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        kl=config.kl,
        learns_rows=config.rows is not Rows.SHARED,
        negative_weight=config.negative_weight,
        sample_fraction=config.sample_fraction,
        tokens_per_batch=config.tokens_per_batch,
        shards=config.shards,
        threads=threads_of(config),
    )
    if config.learner == Learner.REJECTION:
        # Supervised: what is made likely is the reply itself, at no particular temperature.
        learning = replace(learning, temperature=1.0)
        learner = RejectionTuning(population.base, population.lora, learning)
    else:
        learner = PolicyGradient(population.base, population.lora, learning)
    learner.elsewhere = None if workers is None else workers.learn
    return learner


def gather_samples(
    transcripts: Sequence[Transcript],
    population: LoraPopulation,
    config: EvolutionConfig,
    broken: Collection[int] = (),
) -> list[Sample]:
    """What a generation's episodes give the learner to learn from.

    Args:
        transcripts: Episodes of the population's agents.
        population: Knows the tokens of what it generated; other replies are encoded anew.
        config: Settings of the run.
        broken: Slots of those who learn nothing; others may learn from their replies.
    """
    gather = _right_replies if config.learner == Learner.REJECTION else _competing_turns
    samples = gather(transcripts, population, config)
    return [sample for sample in samples if sample.agent not in broken]


def _competing_turns(
    transcripts: Sequence[Transcript], population: LoraPopulation, config: EvolutionConfig
) -> list[Sample]:
    """All turns, each against its rivals: those of other agents and tries at the same problem.

    A turn without one, such as a proposal, is held against all of its phase and kind of task. Those
    who learn from others' replies as well take them at the same advantage, as if they were their
    own, and only those that are better than their rivals. So agents share experience, as in
    Christianos et al. (2020, arXiv:2006.07169), but without importance weights: what is only made
    more likely cannot run away.
    """
    turns: list[Turn] = []
    rewards: list[float] = []
    groups: list[str] = []
    of_kind: dict[str, list[Turn]] = {}
    for transcript in transcripts:
        rounds: dict[str, list[Turn]] = {}
        kind = transcript.proposal and transcript.proposal.kind
        for turn in transcript.turns:
            if config.learn_judging or turn.phase in (Phase.SOLVE, Phase.PROPOSE):
                place = 0 if turn.phase is Phase.SOLVE else turn.round
                rounds.setdefault(f"{transcript.problem.id} {place} {turn.phase}", []).append(turn)
        for group, rivals in rounds.items():
            if kind is not None and len(rivals) == 1:
                of_kind.setdefault(f"{kind} {rivals[0].phase}", []).extend(rivals)
                continue
            turns += rivals
            rewards += _comparable_rewards(rivals)
            groups += [group] * len(rivals)
    for group, rivals in of_kind.items():
        turns += rivals
        rewards += [proposal_reward(t) if t.phase is Phase.PROPOSE else t.reward for t in rivals]
        groups += [group] * len(rivals)
    advantages = _advantages(config.advantage, rewards, groups)
    readers = config.readers(population.size)
    samples: list[Sample] = []
    for turn, advantage in zip(turns, advantages.tolist(), strict=True):
        own = Sample(
            population.agents.index(turn.agent), *_token_ids(turn, population, config), advantage
        )
        samples += [
            replace(own, agent=slot)
            for slot in readers[own.agent]
            if slot == own.agent or advantage > 0
        ]
    return samples


def _advantages(name: str, rewards: list[float], groups: list[str]) -> np.ndarray:
    """What a formula, maybe a user's own, makes of rewards, ``[replies]``.

    Raises:
        ConfigError: If it is not one number for each that is finite or NaN.
    """
    try:
        found = np.asarray(ADVANTAGES[name](rewards, groups), dtype=float)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"advantage: {name!r} made no numbers of {len(rewards)} rewards ({error})"
        ) from error
    if found.shape != (len(rewards),) or np.isinf(found).any():
        came = "an infinite value" if np.isinf(found).any() else f"values of shape {found.shape}"
        raise ConfigError(
            f"advantage: {name!r} returned {came}, expected a finite one, or NaN, for each of the "
            f"{len(rewards)} replies"
        )
    return found


def _comparable_rewards(rivals: Sequence[Turn]) -> list[float]:
    """Rewards; NaN where it is not known if a reply is right, while it is of a rival's."""
    labels = [turn.parts.get(RewardPart.CORRECTNESS.value) for turn in rivals]
    if all(label is None for label in labels):
        return [turn.reward for turn in rivals]
    return [
        math.nan if label is None else turn.reward
        for turn, label in zip(rivals, labels, strict=True)
    ]


def _right_replies(
    transcripts: Sequence[Transcript], population: LoraPopulation, config: EvolutionConfig
) -> list[Sample]:
    """Attempts that whoever labels them for the reward calls right.

    That is the known answer, or the majority, where the reward goes by it; by peers or a judge, an
    attempt is right if its standing is full. Where nobody knows, there is nothing to learn.
    """
    replies = [
        RightReply(
            population.agents.index(turn.agent),
            transcript.problem.id,
            turn.reply,
            *_token_ids(turn, population, config),
        )
        for transcript in transcripts
        for turn in transcript.turns
        if turn.phase is Phase.SOLVE and turn.parts.get(RewardPart.CORRECTNESS.value) == 1
    ]
    return rejection_samples(
        replies, population.size, config.rejection_source, config.rejection_replies
    )


def _token_ids(
    turn: Turn, population: LoraPopulation, config: EvolutionConfig
) -> tuple[Sequence[int], Sequence[int]]:
    """Token ids of a turn's prompt and reply; with its end, unless it was cut off."""
    known = population.recall(turn.reply_id)
    if known is not None:
        return known.prompt_ids, known.reply_ids
    base = population.base  # played elsewhere: the text is all there is
    text_ids = base.tokenizer(turn.reply, add_special_tokens=False)["input_ids"]
    attempt = turn.phase in (Phase.SOLVE, Phase.REVISE)
    whole = not attempt or len(text_ids) < config.solve_tokens
    end = [base.reply_end] if whole and base.reply_end is not None else []
    return base.chat_ids(turn.prompt), (*text_ids, *end)
