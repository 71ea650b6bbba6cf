"""Choosing the next token.

One uniform number per reply and step, from the reply's own seed, inverts the cumulative
distribution: a reply does not depend on what else is in the batch, up to floating point.
"""

import numpy as np
import torch
from torch import Tensor

_TOP = 512  # most likely tokens that are looked at before all are sorted


def choose(
    logits: Tensor, uniforms: np.ndarray, temperature: float | np.ndarray, top_p: float
) -> Tensor:
    """Return one token for each row, ``[rows]``.

    Args:
        logits: ``[rows, vocabulary]``, float32; of a row with one that is no number, the token is
            any.
        uniforms: Numbers in [0, 1), ``[rows]``; not looked at where temperature is 0.
        temperature: Of the softmax, for all rows or ``[rows]``; 0 takes the likeliest token.
        top_p: See `nucleus`.
    """
    greedy = np.asarray(temperature) == 0
    if greedy.all():
        return logits.argmax(-1)
    if greedy.any():
        drawn = choose(logits, uniforms, np.where(greedy, 1.0, temperature), top_p)
        return torch.where(torch.from_numpy(greedy).to(drawn.device), logits.argmax(-1), drawn)
    probabilities = torch.softmax(tempered(logits, temperature), -1)
    if top_p < 1:
        probabilities = nucleus(probabilities, top_p)
    cumulative = probabilities.cumsum(-1)
    whole = cumulative[:, -1:]
    target = torch.from_numpy(uniforms).to(cumulative)[:, None] * whole
    # A number close to 1 rounds to 1: still less than the whole, so that the token has a share.
    target = torch.minimum(target, torch.nextafter(whole, torch.zeros_like(whole)))
    chosen = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return chosen.clamp_(max=logits.shape[-1] - 1)  # logits that are no numbers lead past the end


def tempered(logits: Tensor, temperature: float | np.ndarray) -> Tensor:
    """Logits over the temperature of their row.

    Args:
        logits: ``[rows, vocabulary]``.
        temperature: Above 0, for all rows or ``[rows]``. Equal ones are one number, which on a GPU
            is divided by in another way than a column is.
    """
    distinct = np.unique(temperature)
    if len(distinct) == 1:
        return logits / float(distinct[0])
    return logits / torch.from_numpy(np.asarray(temperature)).to(logits)[:, None]


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
