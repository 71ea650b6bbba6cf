"""Diversity: how far each agent's replies are from the population's average."""

import numpy as np


def cosine_distance(features: np.ndarray) -> np.ndarray:
    """Cosine distance of each agent's features from the population average, problem by problem.

    Args:
        features: Mean hidden state of each agent's reply to each problem, ``[problems, N, width]``;
            NaN where a reply has none.

    Returns:
        Mean over problems of ``1 - cos(feature, mean feature)``, ``[N]``, from 0 to 2; 0 where
        nothing is known.
    """
    known = np.asarray(np.isfinite(features).all(axis=-1))
    safe = np.where(known[..., None], features, 0.0)
    count = np.maximum(known.sum(1, keepdims=True), 1)[..., None]
    average = safe.sum(1, keepdims=True) / count
    norms = np.linalg.norm(safe, axis=-1) * np.linalg.norm(average, axis=-1)
    cosine = np.divide((safe * average).sum(-1), norms, out=np.ones_like(norms), where=norms > 0)
    return np.where(known, 1 - cosine, 0.0).sum(0) / np.maximum(known.sum(0), 1)


def vendi(similarity: np.ndarray) -> np.ndarray:
    """Vendi scores: how many wholly different members a population comes to, problem by problem.

    The exponential of the entropy of the eigenvalues of ``K / N`` (Friedman & Dieng, 2023).

    Args:
        similarity: ``[problems, N, N]``, symmetric, positive semidefinite, 1 on the diagonal.

    Returns:
        ``[problems]`` from 1 (all alike) to N (no similarity); NaN if a similarity is not known.
    """
    scores = np.full(len(similarity), np.nan)
    for row, kernel in enumerate(similarity):
        if np.isfinite(kernel).all():
            values = np.linalg.eigvalsh(kernel / len(kernel))
            shares = values[values > 0]
            scores[row] = np.exp(-(shares * np.log(shares)).sum())
    return scores
