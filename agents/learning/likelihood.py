"""Log-probabilities of tokens in packed batches, with and without a gradient.

Only places that predict a wanted token get logits, each place once however many sequences share it,
and logits are made and differentiated a piece at a time: with a large vocabulary they, not the
model, would fill the memory.

The layout stays in force during the backward pass, and no cache is used, so a model with gradient
checkpointing recomputes what it computed.

How places attend is said by `agents.learning.tree_attention`.

Not covered here: kernels that take no mask (flash attention proper), and sliding windows: in a row
that branches every place looks at all its ancestors.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from agents.engine.adapters import Layout, StackedLora
from agents.engine.sampling import tempered
from agents.learning.packing import Batch, pack
from agents.learning.tree_attention import attending
from agents.loading.models import BaseModel, backbone
from populora_env.keys import Key

MOST_LOGITS = 1 << 25  # most logits held at once

# (log-probabilities of some tokens, which tokens they are) -> loss, summed over those tokens
Loss = Callable[[Tensor, Tensor], Tensor]


class Tokens:
    """Reply tokens of a list of sequences, numbered one sequence after another.

    Args:
        prompts: Token ids of each prompt, at least one.
        replies: Token ids of each reply.

    Attributes:
        sequences: Prompt and reply together.
        sequence: Which sequence each token belongs to, ``[tokens]``.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> None:
        self.sequences = [(*p, *r) for p, r in zip(prompts, replies, strict=True)]
        self._prompts = [len(prompt) for prompt in prompts]
        lengths = np.array([len(reply) for reply in replies], dtype=np.int64)
        self._first = np.cumsum(lengths) - lengths
        self.sequence = np.repeat(np.arange(len(lengths)), lengths)

    def __len__(self) -> int:
        return len(self.sequence)

    def find(
        self, places: Mapping[int, tuple[int, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, place and number of each reply token of the sequences of one batch.

        Args:
            places: Of a `Packed`.
        """
        rows, at, numbers = [], [], []
        for i, (row, path) in places.items():
            reply = path[self._prompts[i] :]
            rows.append(np.full(len(reply), row))
            at.append(reply)
            numbers.append(self._first[i] + np.arange(len(reply)))
        return np.concatenate(rows), np.concatenate(at), np.concatenate(numbers)


class Likelihood:
    """The probability of given tokens under given adapters, or under the bare base.

    Args:
        base: The frozen base.
        lora: Its adapters.
    """

    def __init__(self, base: BaseModel, lora: StackedLora) -> None:
        self._base, self._lora = base, lora

    def logps(
        self,
        batch: Batch,
        tokens: Tokens,
        into: Tensor,
        temperatures: np.ndarray,
        *,
        bare: bool = False,
    ) -> None:
        """Write the log-probabilities of a batch's tokens.

        Args:
            batch: What to compute.
            tokens: Which tokens are wanted.
            into: Where they go, ``[wanted tokens]``; those of other batches are left alone.
            temperatures: Of the softmax, by the number that rows have for their agent's.
            bare: Whether under the base without adapters, whosever the rows are.
        """
        with torch.no_grad():
            self._run(
                batch, tokens, lambda logp, which: into.index_copy_(0, which, logp), temperatures,
                bare,
            )  # fmt: skip

    def backward(
        self,
        batch: Batch,
        tokens: Tokens,
        loss: Loss,
        temperatures: np.ndarray,
        key: Sequence[Key] | None = None,
    ) -> None:
        """Add the gradient of a loss of a batch's tokens to the adapters' gradients.

        Args:
            batch: What to compute.
            tokens: Which tokens count.
            loss: Of their log-probabilities.
            temperatures: Of the softmax, of each agent, ``[N]``.
            key: Of the dropout masks; see `StackedLora.active`.
        """
        self._run(batch, tokens, loss, temperatures, False, key)

    def _run(
        self,
        batch: Batch,
        tokens: Tokens,
        use: Loss,
        temperatures: np.ndarray,
        bare: bool,
        key: Sequence[Key] | None = None,
    ) -> None:
        packed = pack(batch, tokens.sequences)
        with (
            self._lora.active(None if bare else _layout(batch), key),
            attending(self._base, batch, packed) as options,
        ):
            device, head = self._base.device, self._base.model.get_output_embeddings()
            rows, places, which = tokens.find(packed.places)
            # Tokens that stand in the same place of the same row are predicted once.
            node, entry_node = np.unique(rows * batch.width + places, return_inverse=True)
            order = np.argsort(entry_node, kind="stable")
            entry_node, which = entry_node[order], which[order]
            row, place = node // batch.width, node % batch.width
            targets = torch.from_numpy(packed.ids[row, place]).to(device)
            hidden = backbone(self._base.model)(
                input_ids=torch.from_numpy(packed.ids).to(device),
                position_ids=torch.from_numpy(packed.positions).to(device),
                use_cache=False,
                **options,
            ).last_hidden_state
            predicting = hidden[
                torch.from_numpy(row).to(device),
                torch.from_numpy(packed.parents[row, place]).to(device),
            ]
            leaf = predicting.detach().requires_grad_(torch.is_grad_enabled())
            heat = temperatures[[entry.agent for entry in batch.rows]][row]
            piece = max(1, MOST_LOGITS // head.weight.shape[0])
            for start in range(0, len(node), piece):
                end = start + piece
                logits = tempered(head(leaf[start:end]).float(), heat[start:end])
                logp = -torch.nn.functional.cross_entropy(
                    logits, targets[start:end], reduction="none"
                )
                first, last = np.searchsorted(entry_node, [start, end])
                local = torch.from_numpy(entry_node[first:last] - start).to(device)
                result = use(logp[local], torch.from_numpy(which[first:last]).to(device))
                if leaf.requires_grad:
                    result.backward()
            if leaf.requires_grad:
                predicting.backward(leaf.grad)


def _layout(batch: Batch) -> Layout:
    """The grid of the rows' agents; rows that make no grid count as groups of their own."""
    agents = tuple(row.agent for row in batch.rows)
    counts = Counter(agents)
    each = set(counts.values())
    return Layout(tuple(counts), each.pop()) if len(each) == 1 else Layout(agents, 1)
