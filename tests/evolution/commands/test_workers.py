"""What is said of workers before they start."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from agents.machine import resources
from evolution.commands.evolve import workers
from evolution.commands.evolve.options import EvolveOptions


@pytest.mark.parametrize(("quota", "said"), [(None, False), (4.0, False), (2.5, True)])
def test_more_threads_than_a_container_allows_are_told_of(monkeypatch, quota, said):
    monkeypatch.setattr(resources, "cores", lambda: resources.Cores(8, 8, quota))
    engine = SimpleNamespace(pool=SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(workers, "start_workers", lambda *_: engine)
    options = EvolveOptions(workers=2, shards=2, worker_cpus=2)
    console = Console(file=io.StringIO(), width=200)
    with workers.with_workers(SimpleNamespace(engine=None), options, console):
        pass
    shown = console.file.getvalue()
    assert ("2 workers with 2 threads each share 2 processors" in shown) == said
