"""Choosing the next token.

One uniform number per reply and step, from the reply's own seed, inverts the cumulative
distribution: a reply does not depend on what else is in the batch, up to floating point.
"""

import numpy as np
import torch
from torch import Tensor

_TOP = 512  # most likely tokens that are looked at before all are sorted


def choose(logits: Tensor, uniforms: np.ndarray, temperature: float, top_p: float) -> Tensor:
    """Return one token for each row, ``[rows]``.

    Args:
        logits: ``[rows, vocabulary]``, float32.
        uniforms: Numbers in [0, 1), ``[rows]``; not looked at where temperature is 0.
        temperature: Of the softmax; 0 takes the likeliest token.
        top_p: See `nucleus`.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / temperature, -1)
    if top_p < 1:
        probabilities = nucleus(probabilities, top_p)
    cumulative = probabilities.cumsum(-1)
    target = torch.from_numpy(uniforms).to(cumulative)[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return chosen.clamp_(max=logits.shape[-1] - 1)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Set all but the likeliest tokens to 0 (Holtzman et al., 2020).

    Kept are the fewest likeliest tokens whose probabilities sum to at least ``top_p``, and those as
    likely as the last of them; what is left does not sum to 1.

    Args:
        probabilities: ``[rows, vocabulary]``.
        top_p: Above 0, up to 1.
    """
    size = probabilities.shape[-1]
    likeliest = probabilities.topk(min(_TOP, size), -1).values
    if len(likeliest) and float(likeliest.sum(-1).min()) < top_p and size > _TOP:
        likeliest = probabilities.sort(-1, descending=True).values
    before = likeliest.cumsum(-1) - likeliest
    last = (before < top_p).sum(-1, keepdim=True).clamp_(min=1) - 1
    return torch.where(probabilities >= likeliest.gather(-1, last), probabilities, 0.0)
