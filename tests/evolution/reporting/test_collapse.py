"""The audit "proposals collapse": planted collapses are found, healthy proposers left alone."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from evolution.reporting.measures.audits import Verdict
from evolution.reporting.measures.collapse import proposals_collapse
from evolution.reporting.measures.data import read_run_data
from evolution.reporting.measures.proposals import read_proposals
from tests.evolution import synthetic_self_play as made
from tests.evolution.synthetic_self_play import write_self_play_run

SHAPES = [
    {},
    {"generations": 24, "proposals": 24, "proposers": 4, "solvers": 4},
    {"generations": 8, "proposals": 16, "proposers": 1, "solvers": 1, "tries": 4},
    {"proposers": 0, "solvers": 4, "tries": 1},
]


def collapse(folder, wishes, seed=0, **shape):
    run = read_run_data(write_self_play_run(folder, wishes, seed=seed, **shape))
    return proposals_collapse(read_proposals(run))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wishes", [made.healthy, made.struggling])
def test_healthy_proposers_raise_no_alarm(tmp_path, wishes, shape):
    verdicts = [collapse(tmp_path, wishes, seed, **shape).verdict for seed in range(5)]
    assert verdicts.count(Verdict.FINE) >= 4
    assert Verdict.PROBLEM not in verdicts


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (made.copying, "are repeats"),
        (made.repeating, "are repeats"),
        (made.trivial, "are solved by all"),
        (made.hopeless, "are solved by nobody"),
        (made.refused, "are not valid"),
    ],
)
def test_proposers_that_collapse_are_found(tmp_path, wishes, said, shape):
    for seed in range(2):
        audit = collapse(tmp_path, wishes, seed, **shape)
        assert audit.verdict is Verdict.PROBLEM
        assert said in audit.reason


@pytest.mark.parametrize("shape", SHAPES)
def test_near_copies_that_are_no_repeats_are_found(tmp_path, shape):
    for seed in range(3):
        audit = collapse(tmp_path, made.near_copying, seed, **shape)
        assert audit.verdict in (Verdict.WATCH, Verdict.PROBLEM)
        assert "variety went from" in audit.reason
        assert "repeats" not in audit.reason


def test_a_kind_that_is_no_longer_written_is_noticed(tmp_path):
    run = read_run_data(write_self_play_run(tmp_path, generations=12, proposals=24))

    def renamed(entry, number):
        other = number % 2 and entry.generation < 8
        kind = "levels" if other else entry.proposal.kind
        return replace(entry, proposal=replace(entry.proposal, kind=kind))

    proposed = [renamed(entry, number) for number, entry in enumerate(read_proposals(run))]
    audit = proposals_collapse(proposed)
    assert audit.verdict is Verdict.PROBLEM
    assert re.search(r"number of kinds went from 1\.\d\d to 1\.00", audit.reason)


def test_too_little_is_no_verdict(tmp_path):
    few = collapse(tmp_path / "a", made.trivial, generations=4)
    assert few.verdict is Verdict.CANNOT_TELL
    small = collapse(tmp_path / "b", made.trivial, generations=12, proposals=3)
    assert small.verdict is Verdict.CANNOT_TELL


def test_a_single_attempt_cannot_be_trivial(tmp_path):
    audit = collapse(tmp_path, made.trivial, solvers=1, tries=1)
    assert audit.verdict is Verdict.FINE
    assert "solved by" not in audit.reason
