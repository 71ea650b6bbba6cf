from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evolution.errors import OperatorError
from evolution.fitness import diversity
from evolution.fitness.attempts import Attempts
from evolution.fitness.diversity import (
    EMBEDDERS,
    KERNELS,
    cosine_kernel,
    distances,
    jensen_shannon,
    kernel,
    same,
    vendi,
)

NAN = float("nan")


def make(texts=None, answers=None, counted=None, features=None, distributions=None):
    """One problem's attempts, from whatever a test is about."""
    size = len(next(x for x in (texts, answers, counted, features, distributions) if x is not None))
    return Attempts(
        [texts or [f"text {i}" for i in range(size)]],
        [answers or [None] * size],
        np.array([counted if counted is not None else [True] * size]),
        np.full((1, size, 3), NAN) if features is None else np.array([features], dtype=float),
        [distributions or [None] * size],
    )


def measured(setting, attempts):
    return kernel(KERNELS.read_several(setting), attempts)


vectors = arrays(
    float, st.tuples(st.integers(2, 6), st.just(3)), elements=st.floats(-5, 5).map(lambda x: x + 7)
)
probabilities = arrays(float, 5, elements=st.floats(0, 1)).filter(lambda p: p.sum() > 1e-3)


@settings(deadline=None)
@given(st.integers(1, 9))
def test_vendi_of_the_same_is_one_and_of_orthogonal_is_their_number(n):
    assert vendi(np.ones((1, n, n))) == pytest.approx([1])
    assert vendi(np.eye(n)[None]) == pytest.approx([n])


@settings(deadline=None)
@given(vectors, st.randoms())
def test_vendi_does_not_depend_on_the_order_and_stays_in_its_bounds(features, random):
    similarity = cosine_kernel(features[None])
    order = list(range(len(features)))
    random.shuffle(order)
    score = vendi(similarity)[0]
    assert vendi(similarity[:, order][:, :, order])[0] == pytest.approx(score)
    assert 1 - 1e-9 <= score <= len(features) + 1e-9


def test_vendi_of_two_equal_groups_is_two():
    assert vendi(same([["a", "a", "b", "b"]])) == pytest.approx([2])


@settings(deadline=None)
@given(probabilities, probabilities)
def test_jensen_shannon_is_symmetric_and_bounded(p, q):
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))
    assert 0 <= jensen_shannon(p, q) <= np.log(2)
    assert jensen_shannon(p, p) == pytest.approx(0, abs=1e-9)


def test_jensen_shannon_by_hand():
    assert jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(np.log(2))
    half = jensen_shannon(np.array([1.0, 0]), np.array([0.5, 0.5]))
    mixed = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert half == pytest.approx(mixed - np.log(2) / 2)


@settings(deadline=None)
@given(vectors)
def test_kernels_are_positive_semi_definite_with_a_unit_diagonal(features):
    attempts = make(features=features, distributions=list(features))
    for setting in ("hidden_states", "token_distributions", "hidden_states+token_distributions"):
        similarity = measured(setting, attempts)[0]
        assert np.diagonal(similarity) == pytest.approx(np.ones(len(features)))
        assert np.linalg.eigvalsh(similarity).min() > -1e-9
        assert ((similarity >= 0) & (similarity <= 1)).all()


def test_hidden_states_by_hand():
    similarity = measured("hidden_states", make(features=[[1, 0, 0], [0, 2, 0], [-3, 0, 0]]))
    assert similarity[0] == pytest.approx(np.array([[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]))
    assert distances(similarity)[0] == pytest.approx([0.75, 0.5, 0.75])


def test_weights_are_relative_and_an_attempt_unknown_to_one_measure_is_unknown():
    attempts = make(answers=["7", "8", "7", None], features=[[1, 0, 0], [1, 0, 0], [0, 1, 0]] * 1
                    + [[1, 0, 0]])  # fmt: skip
    similarity = measured("3*hidden_states+answers", attempts)[0]
    assert similarity[0, 1] == pytest.approx(0.75)
    assert similarity[0, 2] == pytest.approx((3 * 0.5 + 1) / 4)
    assert np.isnan(similarity[3]).all()
    assert np.isnan(similarity[:, 3]).all()


def test_what_does_not_count_neither_earns_nor_counts_for_others():
    attempts = make(answers=["1", "1", "2"], counted=[True, True, False])
    similarity = measured("answers", attempts)
    assert vendi(similarity) == pytest.approx([1])
    assert distances(similarity)[0] == pytest.approx([0, 0, NAN], nan_ok=True)
    alone = measured("answers", make(answers=["1", "2"], counted=[True, False]))
    assert np.isnan(distances(alone)).all()
    assert vendi(alone) == pytest.approx([1])
    assert np.isnan(vendi(measured("answers", make(answers=["1", "2"], counted=[False, False]))))


def test_no_measure_knows_nothing():
    assert np.isnan(measured("none", make(answers=["1", "2"]))).all()


def test_strategies_compare_classes():
    similarity = measured("strategies", make(texts=["42", "1. one\n2. two", "7"]))[0]
    assert similarity.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_embeddings_by_any_callable(monkeypatch):
    monkeypatch.setitem(EMBEDDERS, "lengths", lambda texts: [[len(t), 4 - len(t)] for t in texts])
    similarity = measured("embeddings(model=lengths)", make(texts=["four", "", "more", "ab"]))[0]
    assert similarity[0, 2] == pytest.approx(1)
    assert similarity[0, 3] == pytest.approx((1 + 0.5**0.5) / 2)
    assert np.isnan(similarity[1]).all()
    monkeypatch.setitem(EMBEDDERS, "bad", lambda texts: [[1.0]])
    with pytest.raises(OperatorError, match=r"bad returned \[1, 1\], expected a finite vector"):
        measured("embeddings(model=bad)", make(texts=["a", "b"]))


def test_embeddings_by_a_local_sentence_transformers_model(tmp_path):
    st_models = pytest.importorskip("sentence_transformers.models")
    from sentence_transformers import SentenceTransformer

    words = st_models.BoW(vocab=["two", "three", "sum"])
    SentenceTransformer(modules=[words]).save(str(tmp_path))
    texts = ["two three", "three two", "sum"]
    similarity = measured(f"embeddings(model='{tmp_path}')", make(texts=texts))[0]
    assert similarity == pytest.approx(np.array([[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]]))


def test_a_missing_package_or_model_is_named(monkeypatch, tmp_path):
    diversity._sentence_transformer.cache_clear()
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(OperatorError, match=r"pip install 'populora-env\[embeddings\]'"):
        diversity.embedder("some/model")
    monkeypatch.undo()
    pytest.importorskip("sentence_transformers")
    with pytest.raises(OperatorError, match="cannot be loaded"):
        diversity.embedder(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (np.ones((1, 3, 3)), r"returned \[1, 3, 3\], expected \[1, 2, 2\]"),
        (np.full((1, 2, 2), 2.0), "outside 0 to 1"),
        (np.zeros((1, 2, 2)), "unlike itself"),
        (np.array([[[1, 0.5], [0.2, 1]]]), "not symmetric"),
    ],
)
def test_a_measure_of_ones_own_is_checked(own, said):
    KERNELS.add("own")(lambda attempts: own)
    with pytest.raises(OperatorError, match=said):
        measured("own", make(answers=["1", "2"]))


def test_settings_that_cannot_be_read():
    with pytest.raises(OperatorError, match="diversity: got 'magic', expected one of hidden_st"):
        KERNELS.read_several("hidden_states+magic")
    assert [use.chance for use in KERNELS.read_several("2*answers+strategies")] == [2, 1]
