"""Diversity: how alike attempts at the same problem are, and what follows from it.

A measure gives, for each problem, a similarity kernel of the attempts: ``[problems, N, N]`` from 0
to 1 with a unit diagonal, positive semi-definite, NaN in the rows and columns of attempts of which
it knows nothing. From a kernel, whatever it measures, follow how far each attempt is from the
others (`distances`) and how many different attempts the population holds in effect (`vendi`).

Settings join measures by ``+``, with weights in front: ``hidden_states+0.5*answers``. A measure is
a function of `Attempts`; naming it adds it, as in `evolution.registry`:

    from evolution.fitness.diversity import KERNELS, same

    @KERNELS.add("first_words")
    def first_words(attempts):
        return same([[text.split()[:1] or None for text in row] for row in attempts.texts])
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agents.engine.jobs import Feature
from evolution.errors import OperatorError
from evolution.fitness.attempts import Attempts
from evolution.fitness.strategies import CLASSIFIERS
from evolution.registry import Operators, Use
from populora_env.settings import Registry

Measure = Callable[..., np.ndarray]
Embedder = Callable[[Sequence[str]], Any]

KERNELS = Operators[Measure]("diversity", factor="weight", most=1e6)

EMBEDDING_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDERS = Registry[Embedder]("embeddings")
"""Functions from texts to vectors ``[texts, width]``, which ``embeddings(model=NAME)`` looks up."""

NEEDS = {"hidden_states": Feature.HIDDEN_STATES, "token_distributions": Feature.DISTRIBUTIONS}
"""What measures need of the engine that generates; those not named here need texts alone."""

_TOLERANCE = 1e-6


@KERNELS.add("hidden_states")
def hidden_states(attempts: Attempts) -> np.ndarray:
    """``(1 + cos) / 2`` of the mean last hidden states."""
    return cosine_kernel(attempts.hidden_states)


@KERNELS.add("token_distributions")
def token_distributions(attempts: Attempts) -> np.ndarray:
    """``1 - JS / ln 2`` of the mean token distributions, JS being Jensen-Shannon divergence.

    Positive semi-definite (Martins et al., 2009, "Nonextensive information theoretic kernels on
    measures").
    """
    problems, size = attempts.shape
    kernel = np.full((problems, size, size), np.nan)
    for row, given in enumerate(attempts.distributions):
        known = [i for i, p in enumerate(given) if p is not None]
        stacked = [np.asarray(p, dtype=float) for p in given if p is not None]
        for a, one in enumerate(stacked):
            for b in range(a + 1):
                alike = 1.0 if a == b else 1 - jensen_shannon(one, stacked[b]) / np.log(2)
                kernel[row, known[a], known[b]] = kernel[row, known[b], known[a]] = alike
    return kernel


@KERNELS.add("answers")
def answers(attempts: Attempts) -> np.ndarray:
    """1 where two attempts end in the same answer, else 0; nothing is known without an answer."""
    return same(attempts.answers)


@KERNELS.add("strategies", classifier=CLASSIFIERS)
def strategies(attempts: Attempts, *, classifier: str = "surface") -> np.ndarray:
    """1 where two attempts are of the same class, else 0; see `evolution.fitness.strategies`."""
    return same([[CLASSIFIERS.classify(classifier, text) for text in r] for r in attempts.texts])


@KERNELS.add("embeddings")
def embeddings(attempts: Attempts, *, model: str = EMBEDDING_MODEL) -> np.ndarray:
    """``(1 + cos) / 2`` of sentence embeddings; nothing is known of an empty reply.

    Args:
        attempts: Whose texts are embedded.
        model: A name in `EMBEDDERS`, else a sentence-transformers model: a hub id or a folder.
    """
    places = [
        (p, i) for p, row in enumerate(attempts.texts) for i, t in enumerate(row) if t.strip()
    ]
    if not places:
        return np.full((*attempts.shape, attempts.shape[1]), np.nan)
    vectors = np.asarray(embedder(model)([attempts.texts[p][i] for p, i in places]), dtype=float)
    if vectors.ndim != 2 or len(vectors) != len(places) or not np.isfinite(vectors).all():
        raise OperatorError(
            f"diversity: embeddings: {model} returned {list(vectors.shape)}, expected a finite "
            f"vector for each of {len(places)} texts"
        )
    features = np.full((*attempts.shape, vectors.shape[1]), np.nan)
    for place, vector in zip(places, vectors, strict=True):
        features[place] = vector
    return cosine_kernel(features)


@functools.cache
def _sentence_transformer(model: str) -> Embedder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise OperatorError(
            f"diversity: embeddings(model={model!r}) needs sentence-transformers: pip install "
            "'populora-env[embeddings]', or give a function this name with "
            "@evolution.EMBEDDERS.add(...)"
        ) from error
    try:
        loaded = SentenceTransformer(model, device="cpu")
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OperatorError(
            f"diversity: embeddings: model {model!r} cannot be loaded ({said}); name a "
            "sentence-transformers model on the hub or in a local folder"
        ) from error
    return lambda texts: loaded.encode(list(texts), show_progress_bar=False)


def embedder(model: str) -> Embedder:
    """The function that embeds texts by this name, loaded once.

    Raises:
        OperatorError: If a package is missing, or the model cannot be loaded.
    """
    return EMBEDDERS[model] if model in EMBEDDERS else _sentence_transformer(model)


def cosine_kernel(features: np.ndarray) -> np.ndarray:
    """``(1 + cos) / 2`` of all pairs.

    Args:
        features: ``[problems, N, width]``; a row that is zero or not finite is not known.

    Returns:
        ``[problems, N, N]``.
    """
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    unit = np.divide(features, norms, out=np.full(features.shape, np.nan), where=norms > 0)
    kernel = np.clip((1 + unit @ unit.swapaxes(1, 2)) / 2, 0, 1)
    size = features.shape[1]
    return np.where(np.eye(size, dtype=bool) & np.isfinite(kernel), 1.0, kernel)


def same(labels: Sequence[Sequence[Any]]) -> np.ndarray:
    """1 where two attempts have the same label, else 0.

    Args:
        labels: ``[problems][N]``; None where not known.

    Returns:
        ``[problems, N, N]``; NaN beside what is not known.
    """
    return np.array(
        [
            [[np.nan if a is None or b is None else float(a == b) for b in row] for a in row]
            for row in labels
        ]
    )


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence of two distributions ``[n]``, in nats: from 0 to ln 2."""
    p, q = p / p.sum(), q / q.sum()
    divergence = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return float(np.clip(divergence, 0, np.log(2)))


def kernel(measures: Sequence[Use[Measure]], attempts: Attempts) -> np.ndarray:
    """Weighted mean of the measures' kernels, among the attempts that count.

    Returns:
        ``[problems, N, N]``; NaN in the rows and columns of attempts that do not count, or of
        which some measure knows nothing.

    Raises:
        OperatorError: If a measure does not return a similarity kernel.
    """
    problems, size = attempts.shape
    total, weights = np.zeros((problems, size, size)), sum(use.chance for use in measures)
    for use in measures:
        own = np.asarray(use(attempts), dtype=float)
        _check(use.name, own, total.shape)
        total += use.chance / weights * own
    known = attempts.counted & np.isfinite(np.diagonal(total, axis1=1, axis2=2))
    if not measures:
        known = np.zeros_like(known)
    return np.where(known[:, :, None] & known[:, None, :], total, np.nan)


def _check(name: str, own: np.ndarray, shape: tuple[int, ...]) -> None:
    said = f"diversity: {name} returned"
    if own.shape != shape:
        raise OperatorError(f"{said} {list(own.shape)}, expected {list(shape)}")
    diagonal = np.diagonal(own, axis1=1, axis2=2)
    known = np.isfinite(diagonal)
    among = own[known[:, :, None] & known[:, None, :]]
    if not (np.isfinite(among) & (among >= -_TOLERANCE) & (among <= 1 + _TOLERANCE)).all():
        raise OperatorError(f"{said} a similarity outside 0 to 1")
    if not np.allclose(diagonal[known], 1, atol=_TOLERANCE):
        raise OperatorError(f"{said} an attempt unlike itself; expected 1 on the diagonal")
    if not np.allclose(own, own.swapaxes(1, 2), atol=_TOLERANCE, equal_nan=True):
        raise OperatorError(f"{said} a kernel that is not symmetric")


def distances(similarity: np.ndarray) -> np.ndarray:
    """Mean distance, ``1 - similarity``, of each attempt from the others at its problem.

    Args:
        similarity: ``[problems, N, N]``, as `kernel` returns it.

    Returns:
        ``[problems, N]`` from 0 to 1; NaN of an attempt that is not known, or alone.
    """
    known = np.isfinite(np.diagonal(similarity, axis1=1, axis2=2))
    others = known.sum(1, keepdims=True) - 1
    total = np.where(np.isfinite(similarity), 1 - similarity, 0.0).sum(2)
    shape = np.full(known.shape, np.nan)
    return np.divide(total, others, out=shape, where=known & (others > 0))


def vendi(similarity: np.ndarray) -> np.ndarray:
    """Vendi scores: how many different attempts there are in effect, problem by problem.

    The exponential of the entropy of the eigenvalues of ``K / n`` (Friedman and Dieng, 2023, "The
    Vendi Score"). Negative eigenvalues, which only a kernel that is not positive semi-definite
    has, are left out.

    Args:
        similarity: ``[problems, N, N]``, as `kernel` returns it.

    Returns:
        ``[problems]`` from 1, all the same, to the number n of attempts that are known, nothing in
        common; NaN where none is.
    """
    scores = np.full(len(similarity), np.nan)
    for row, whole in enumerate(similarity):
        known = np.isfinite(np.diagonal(whole))
        if known.any():
            values = np.linalg.eigvalsh(whole[np.ix_(known, known)] / known.sum())
            values = np.clip(values, 0, None)
            scores[row] = np.exp(_entropy(values / values.sum()))
    return scores


def _entropy(p: np.ndarray) -> float:
    """Shannon entropy in nats."""
    some = p[p > 0]
    return float(-(some * np.log(some)).sum())
