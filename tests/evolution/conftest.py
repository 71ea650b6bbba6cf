"""Many tests here build peers of PEFT, optimisers of TRL or layers of PyTorch."""

import pytest


@pytest.fixture(autouse=True)
def _seeded(shared_generators):
    """Such libraries draw first weights from the shared generators: every test begins them anew."""
