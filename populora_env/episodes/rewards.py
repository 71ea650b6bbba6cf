"""What agents are paid for.

A reward is a weighted sum of named parts. A part is None where it is unknown, and an unknown part
is left out of the sum, never counted as zero or as a loss. Which attempts count as right is
decided in `labels`, what a judgement is worth in `skill`; `settlement` pays out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from populora_env.errors import check_member
from populora_env.proposals.record import Proposal, ProposalStatus
from populora_env.records import ReplyStatus
from populora_env.settings import Registry

Parts = dict[str, float | None]


class RewardPart(StrEnum):
    """Names of the parts of a reward."""

    CORRECTNESS = "correctness"
    FORMAT = "format"
    PEER = "peer"
    JUDGING = "judging"
    UPLIFT = "uplift"
    LENGTH = "length"
    SIGNED = "signed"
    VALIDITY = "validity"
    LEARNABILITY = "learnability"
    VARIANCE = "variance"
    PROGRESS = "progress"
    NOVELTY = "novelty"


class Labels(StrEnum):
    """Who says which attempts are right."""

    AUTO = "auto"  # the known answer; where there is none, the judge; without one, the majority
    ANSWER = "answer"  # the known answer; unknown where there is none
    MAJORITY = "majority"  # the most frequent answer, even where the right one is known
    PEERS = "peers"  # how the answer stands among the agents' own judgements
    JUDGE = "judge"  # the judge passed to the arena, even where the answer is known


@dataclass(frozen=True, slots=True)
class RewardWeights:
    """What each part of a reward counts, and who says what is right.

    Attributes:
        correctness: 1 for a right attempt, 0 for a wrong one, or its standing in [0, 1] where
            peers or a judge decide; in the revise phase, the change that the revision made.
        format: 1 for a reply read by a strict rule, 0.5 by a lenient one, 0 unread.
        peer: Mean opinion of the judges on the attempt, in [0, 1].
        judging: What the agent's judgements are worth, in [0, 1], where 1/2 is chance; see
            `skill`. A judgement that cannot be read earns nothing.
        uplift: How much better attempts became after the agent criticised them, in [-1, 1].
        length: Minus the length of replies in thousands of characters; a positive weight makes
            long replies cost.
        labels: Who says which attempts are right. Unless it is the known answer, judgements are
            held against the consensus of the other judges, too.
        signed: Of an attempt: 1 if it is right, -0.5 if it is wrong, -1 if no answer can be read.
        validity: Of a proposal: 0 if it is valid, -1 if not.
        learnability: Of a valid proposal: 1 minus the share of right attempts; 0 if none is.
        variance: Of a valid proposal: 4 p (1 - p), p the share of right attempts.
        progress: Of a valid proposal: what its solvers have gained lately on fixed training
            problems, in [-1, 1]; unknown where nobody measures it.
        novelty: Of a valid proposal: distance in [0, 1] to the nearest of the last ones.
    """

    correctness: float = 1.0
    format: float = 0.1
    peer: float = 0.1
    judging: float = 0.1
    uplift: float = 0.1
    length: float = 0.0
    labels: Labels = Labels.AUTO
    signed: float = 0.0
    validity: float = 1.0
    learnability: float = 1.0
    variance: float = 0.0
    progress: float = 0.0
    novelty: float = 0.0

    def __post_init__(self) -> None:
        for part in RewardPart:
            value = getattr(self, part)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{part} must be a finite number, got {value!r}")
        object.__setattr__(self, "labels", check_member("labels", self.labels, Labels))

    def total(self, parts: Mapping[str, float | None]) -> float:
        """Return the weighted sum of the parts that are known."""
        known = ((name, value) for name, value in parts.items() if value is not None)
        return float(sum(getattr(self, RewardPart(name)) * value for name, value in known))

    @classmethod
    def preset(cls, name: str) -> "RewardWeights":
        """Return one of `REWARD_PRESETS` by name.

        Raises:
            ValueError: If there is none of that name.
        """
        if name not in REWARD_PRESETS:
            raise ValueError(
                f"rewards must be RewardWeights or one of {', '.join(REWARD_PRESETS)}, got {name!r}"
            )
        return REWARD_PRESETS[name]


_SELF_PLAY = RewardWeights(correctness=0.0, format=0.0, signed=1.0)

REWARD_PRESETS = Registry(
    "rewards",
    {
        "default": RewardWeights(),
        "ground_truth": RewardWeights(labels=Labels.ANSWER),
        "majority_answer": RewardWeights(labels=Labels.MAJORITY),
        # Judging weighs as much as being judged well: a bloc that praises its own must not gain.
        "peers_only": RewardWeights(peer=0.0, judging=1.0, labels=Labels.PEERS),
        "external_judge": RewardWeights(labels=Labels.JUDGE),
        # Of self-play, by what a proposer is paid for; solvers get 1, -0.5 or -1.
        "learnability": _SELF_PLAY,
        "variance": replace(_SELF_PLAY, learnability=0.0, variance=1.0),
        "progress": replace(_SELF_PLAY, learnability=0.0, progress=1.0),
    },
)


def format_part(status: ReplyStatus) -> float:
    """Return 1 for a strictly read reply, 0.5 for a leniently read one, 0 for any other."""
    return {ReplyStatus.OK: 1.0, ReplyStatus.LENIENT: 0.5}.get(status, 0.0)


def signed_part(correctness: float | None, status: ReplyStatus) -> float | None:
    """Return 1 for a right attempt, -0.5 for a wrong one, -1 for one without a readable answer.

    None where it is not known whether it is right, or where no reply came.
    """
    if status not in (ReplyStatus.OK, ReplyStatus.LENIENT):
        return None if status is ReplyStatus.FAILED else -1.0
    return None if correctness is None else 1.5 * correctness - 0.5


def proposal_parts(proposal: Proposal, gain: float | None = None) -> Parts:
    """Return what is known of a proposal's reward.

    A held-out problem, and a proposal that never came, have none: nothing is learned from them.

    Args:
        proposal: What became of it.
        gain: What its solvers have gained lately; None where nobody measured it.
    """
    if proposal.status in (ProposalStatus.HELD_OUT, ProposalStatus.FAILED):
        return {RewardPart.VALIDITY.value: None}
    if not proposal.valid:
        return {RewardPart.VALIDITY.value: -1.0}
    parts: Parts = {
        RewardPart.VALIDITY.value: 0.0,
        RewardPart.NOVELTY.value: proposal.novelty,
    }
    rate = proposal.solve_rate
    if rate is not None:
        parts[RewardPart.LEARNABILITY.value] = 1.0 - rate if rate else 0.0
        parts[RewardPart.VARIANCE.value] = 4.0 * rate * (1.0 - rate)
        parts[RewardPart.PROGRESS.value] = gain
    return parts


def length_part(text: str) -> float:
    """Return minus the number of characters, in thousands."""
    return -len(text) / 1000
