from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agents.learning.packing import pack, plan

sequences = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=20)


def distinct_tokens(rows):
    """How many nodes the tree of these sequences has."""
    return len({tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)})


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(sequences, st.integers(1, 60), st.integers(1, 4), st.integers(0, 2**16))
@example([[1, 2], [1, 2], [1]], 60, 1, 0)
def test_every_sequence_is_written_once_and_sees_only_itself(tokens, budget, agents, seed):
    owners = np.random.default_rng(seed).integers(agents, size=len(tokens)).tolist()
    batches = plan(tokens, owners, budget, width=8)
    planned = [i for batch in batches for row in batch.rows for i in row.members]
    assert sorted(planned) == list(range(len(tokens)))
    for batch in batches:
        assert batch.cells <= budget or (
            len(batch.rows) == 1 and len(tokens[batch.rows[0].members[0]]) > budget
        )
        packed = pack(batch, tokens)
        visible = packed.visible()
        assert visible.any(-1).all()  # a place that looks at nothing would be NaN
        for r, row in enumerate(batch.rows):
            members = [tokens[i] for i in row.members]
            assert {owners[i] for i in row.members} == {row.agent}
            assert row.width == distinct_tokens(members)
            for i in row.members:
                where, places = packed.places[i]
                assert where == r
                assert packed.ids[r, places].tolist() == tokens[i]
                assert packed.positions[r, places].tolist() == list(range(len(tokens[i])))
                assert packed.parents[r, places].tolist() == [-1, *places[:-1]]
                for depth, place in enumerate(places):
                    seen = np.flatnonzero(visible[r, place]).tolist()
                    assert seen == places[: depth + 1].tolist()
        if packed.causal:
            triangle = np.tril(np.ones((batch.width, batch.width), dtype=bool))
            used = [np.arange(batch.width) < row.width for row in batch.rows]
            for mask, real in zip(visible, used, strict=True):
                assert (mask[real] == triangle[real]).all()


def batch_of_an_arena(seed, agents, problems, opening, prompt, reply):
    """Sequences as a generation makes them: each agent's replies to the same problems."""
    rng = np.random.default_rng(seed)
    head = rng.integers(1, 1000, opening).tolist()
    prompts = [[*head, *rng.integers(1, 1000, rng.integers(*prompt))] for _ in range(problems)]
    owners = [agent for agent in range(agents) for _ in range(problems)]
    # Only replies with an advantage are learned from: agents differ in how many they have.
    kept = [i for i in range(agents * problems) if rng.random() < 0.3 + 0.6 * owners[i] / agents]
    tokens = [[*prompts[i % problems], *rng.integers(1, 1000, rng.integers(*reply))] for i in kept]
    return tokens, [owners[i] for i in kept]


def grid_cells(tokens, owners, opening, budget):
    """Cells of a grid of (agents x rows of the fullest agent), the opening once per agent."""
    queues = {}
    for i in sorted(range(len(tokens)), key=lambda i: len(tokens[i])):
        queues.setdefault(owners[i], []).append(len(tokens[i]))
    cells = 0
    while queues:
        longest = max(queue[-1] for queue in queues.values())
        each = max(1, budget // (longest * len(queues)))
        taken = {}
        for agent, queue in queues.items():
            taken[agent] = [length for length in queue[-each:] if length * 4 >= longest * 3]
            del queue[len(queue) - len(taken[agent]) :]
        rows = {agent: lengths for agent, lengths in taken.items() if lengths}
        fullest = max(len(lengths) for lengths in rows.values())
        width = max(max(lengths) for lengths in rows.values())
        shared = opening if fullest > 1 else 0
        cells += len(rows) * (shared + fullest * (width - shared))
        queues = {agent: queue for agent, queue in queues.items() if queue}
    return cells


@pytest.mark.parametrize(
    ("opening", "prompt", "reply", "problems"),
    [(31, (15, 35), (3, 25), 8), (31, (40, 200), (50, 400), 8), (31, (15, 35), (3, 25), 64)],
    ids=["sums", "word problems", "many sums"],
)
@pytest.mark.parametrize("seed", range(3))
def test_little_is_padding_and_less_than_in_a_grid(opening, prompt, reply, problems, seed):
    tokens, owners = batch_of_an_arena(seed, 8, problems, opening, prompt, reply)
    batches = plan(tokens, owners, 2048)
    cells = sum(batch.cells for batch in batches)
    rows = [row for batch in batches for row in batch.rows]
    assert cells <= 1.1 * sum(row.width for row in rows)
    assert cells < 0.95 * grid_cells(tokens, owners, opening, 2048)


def test_one_prompt_answered_often_is_written_once():
    tokens = [[*range(100), 200 + i, 300] for i in range(8)]
    (batch,) = plan(tokens, [0] * 8, 2048)
    assert batch.cells == 100 + 8 * 2


def test_sequences_that_share_little_stay_apart():
    tokens = [[1, *range(100 * i, 100 * i + 99)] for i in range(2, 10)]
    (batch,) = plan(tokens, [0] * 8, 2048)
    assert len(batch.rows) == 8
    assert pack(batch, tokens).causal


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([[1]], [0, 1], 10), "agents: got 2, expected one for each of the 1 sequences"),
        (([[1]], [0], 0), "budget: got 0"),
        (([[1], []], [0, 0], 10), r"sequences\[1\]: expected at least 1 token"),
    ],
)
def test_bad_input_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        plan(*arguments)
