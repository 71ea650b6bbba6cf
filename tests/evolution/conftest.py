"""Many tests here add operators of their own."""

import pytest


@pytest.fixture(autouse=True)
def _own_operators_are_forgotten(monkeypatch):
    """What a test adds to a registry is not there for the next one."""
    from evolution.registry import Operators

    add, added = Operators.add, []

    def noted(self, name, **ranges):
        added.append((self, name))
        return add(self, name, **ranges)

    monkeypatch.setattr(Operators, "add", noted)
    yield
    for operators, name in added:
        # A module of ours that the test was the first to import stays registered.
        if name in operators and not operators[name].__module__.startswith("evolution."):
            del operators[name]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A tiny model on disk, as a user names it."""
    from tests.conftest import make_tiny_base, save_base

    return save_base(make_tiny_base(), tmp_path_factory.mktemp("model"))
