"""Which right replies each agent learns from: rejection sampling.

An agent learns from replies of its own (RFT, Yuan et al., 2023, arXiv:2308.01825) or from the
whole population's, so that what one found out, all can learn. Token ids mean the same under every
adapter, so another agent's reply is learned as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from agents.learning.learners import Sample


class RejectionSource(StrEnum):
    """Whose right replies an agent learns from."""

    OWN = "own"
    POPULATION = "population"


@dataclass(frozen=True, slots=True)
class RightReply:
    """A reply that was found right.

    Attributes:
        agent: Who wrote it.
        problem: What it answers; replies are counted per problem.
        text: Its text; two replies are the same if their texts are, outer white space aside.
        prompt_ids: Token ids of the prompt.
        reply_ids: Token ids of the reply, with the token that ended it, if one did.
    """

    agent: int
    problem: str
    text: str
    prompt_ids: Sequence[int]
    reply_ids: Sequence[int]


def rejection_samples(
    replies: Sequence[RightReply],
    size: int,
    source: RejectionSource = RejectionSource.OWN,
    limit: int = 4,
) -> list[Sample]:
    """Choose samples for `RejectionTuning`.

    Each agent gets at most ``limit`` distinct replies to each problem. From the population it takes
    its own first, then those of the agents after it in turn, so that where there are more than
    ``limit``, agents learn from different ones.

    Args:
        replies: Right replies, in order.
        size: Number of agents, N.
        source: Whose replies each agent learns from.
        limit: Most replies of one problem per agent.

    Raises:
        ValueError: If the limit is below 1 or a reply is of no agent.
    """
    if limit < 1:
        raise ValueError(f"limit: got {limit}, expected at least 1 reply per problem")
    if strangers := [reply.agent for reply in replies if not 0 <= reply.agent < size]:
        raise ValueError(f"replies: agent {strangers[0]} is not in 0..{size - 1}")
    samples: list[Sample] = []
    for agent in range(size):
        taken: dict[str, set[str]] = {}
        for reply in sorted(replies, key=lambda reply: (reply.agent - agent) % size):
            if reply.agent != agent and source == RejectionSource.OWN:
                break
            texts = taken.setdefault(reply.problem, set())
            text = reply.text.strip()
            if text not in texts and len(texts) < limit:
                texts.add(text)
                samples.append(Sample(agent, reply.prompt_ids, reply.reply_ids))
    return samples
