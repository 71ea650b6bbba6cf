from __future__ import annotations

import numpy as np
import pytest

from evolution.diversity import cosine_distance

NAN = float("nan")


def test_cosine_distance_by_hand():
    features = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert cosine_distance(features) == pytest.approx([(1 - 0.5**0.5) / 2] * 2)


def test_unknown_features_are_left_out():
    features = np.array([[[1.0, 0.0], [1.0, 0.0], [NAN, NAN]]])
    assert cosine_distance(features) == pytest.approx([0, 0, 0])
    assert cosine_distance(np.full((2, 3, 4), NAN)).tolist() == [0, 0, 0]
