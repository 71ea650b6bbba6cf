from __future__ import annotations

import pytest

from agents.population import LoraPopulation
from agents.vllm.engine import VllmEngine
from tests.agents.vllm.fake_server import FakeVllm
from tests.conftest import make_tiny_base


@pytest.fixture
def make_server():
    made = []

    def make(**settings):
        made.append(FakeVllm(make_tiny_base(), **settings))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(make_server):
    return make_server()


@pytest.fixture
def connect(server, tmp_path):
    made = []

    def connect(url=server.url, folder=tmp_path / "adapters", size=3, rank=(2, 3, 4), **settings):
        base = make_tiny_base()
        engine = VllmEngine(base, url, folder, **{"timeout": 20.0, **settings})
        made.append(engine)
        return LoraPopulation(base, size, rank, engine=engine, temperature=0.0)

    yield connect
    for engine in made:
        engine.close()
