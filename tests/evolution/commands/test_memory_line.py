"""The most memory that a run held, as `populora evolve` says it."""

from __future__ import annotations

import sys

import pytest
import torch

from evolution.commands.evolve import memory
from evolution.commands.evolve.memory import memory_words, peak_memory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_is_the_process_and_stays_when_memory_is_freed():
    before = peak_memory(CPU)["process"]
    held = torch.ones(int(before) * 2**18 + 2**26)  # as much again, and 256 MiB
    after = peak_memory(CPU)["process"]
    assert after >= held.numel() * 4 / 2**20
    assert after >= before + 100
    del held
    assert peak_memory(CPU)["process"] >= after - 1  # Linux adds up its counters now and then


def test_where_there_is_no_proc_the_system_is_asked(monkeypatch, tmp_path):
    there = peak_memory(CPU)["process"]
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    assert peak_memory(CPU)["process"] == pytest.approx(there, rel=0.5)
    (tmp_path / "none").write_text("Name: x\nVmPeak: 3 kB\n")
    assert peak_memory(CPU)["process"] > 10
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory(CPU) == {}


def test_tensors_on_a_gpu_are_told_besides(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    assert peak_memory(torch.device("cuda"))["gpu"] == 3


def test_the_line():
    assert memory_words({"process": 1234.4}) == "Memory at most: 1,234 MiB"
    line = memory_words({"process": 900.0, "gpu": 5000.0})
    assert line == "Memory at most: 900 MiB, 5,000 MiB on the GPU"
    assert memory_words({}) == ""
