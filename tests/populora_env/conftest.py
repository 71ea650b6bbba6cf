"""Reasoning Gym, PettingZoo and Gymnasium draw from the shared generators here and there."""

import pytest


@pytest.fixture(autouse=True)
def _seeded(shared_generators):
    """Every test begins the shared generators anew."""
