"""What the page says of the inside of adapters follows from the figures, and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.peft_io import PeftAdapter
from evolution.lowrank.anatomy import measure
from evolution.reporting.anatomy import sentences
from evolution.reporting.anatomy.ablation import AblatedAgent, Ablation
from evolution.reporting.anatomy.reading import Inside, Moves
from tests.evolution.made_up_adapters import DEPTH, NAMES, RANK, factors


def adapters(*each):
    return {
        f"agent_{i}": PeftAdapter(rank=RANK, alpha=RANK, base="", factors=own)
        for i, own in enumerate(each)
    }


def louder(own, names, by=10.0):
    return {name: (A, B * by if name in names else B) for name, (A, B) in own.items()}


LATE = [name for name in NAMES if int(name.split(".")[2]) >= DEPTH * 2 // 3]
VALUES = [name for name in NAMES if "v_proj" in name]


def test_even_updates_are_said_to_be_even():
    found = measure(adapters(*(factors(seed) for seed in range(4))))
    said = sentences.sizes(found)
    assert said.startswith("The squared size is spread over modules in proportion to their weights")
    assert "all depths have about the same. Agents have about as much (" in said


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (VALUES, "v_proj holds 99% of the squared size, with 50% of the weights"),
        (LATE, "the last third (layers 4 to 5) has 98%"),
    ],
)
def test_where_updates_are_large_is_said(names, said):
    found = measure(adapters(*(louder(factors(seed), names) for seed in range(2))))
    assert said in sentences.sizes(found)


def test_who_is_large_is_said_and_sizes_beside_the_base():
    given = adapters(factors(0), louder(factors(1), NAMES, 3.0))
    said = sentences.sizes(measure(given))
    assert "agent_1 is largest (" in said
    assert "agent_0 smallest (" in said
    assert "median" not in said
    known = dict.fromkeys(NAMES, 100.0) | {NAMES[3]: 1.0}
    assert "the largest, in v_proj of layer 1, " in sentences.sizes(measure(given, known))


def test_only_where_agents_differ_is_named():
    own = factors(0)
    other = louder(own, ["model.layers.0.self_attn.q_proj"], -1.0)
    said = sentences.differences(measure(adapters(own, other, own)))
    assert "is common to all of them (unrelated agents of one size would have 33%)" in said
    assert "q_proj holds 100% of the difference, with 50% of the weights" in said
    assert "the first third (layers 0 to 1) has 100%" in said
    assert "agent_1 is farthest from the mean" in said
    assert sentences.differences(measure(adapters(own, own))) == "All agents carry the same update."


def test_who_is_like_whom_and_what_they_share():
    one, other = factors(0), factors(1)
    said = sentences.overlaps(measure(adapters(one, other, one)))
    assert said.startswith("Most alike are agent_0 and agent_2 (cosine 1.00); 2 of 3 pairs are")
    same_rows = {name: (one[name][0], other[name][1]) for name in NAMES}
    said = sentences.overlaps(measure(adapters(one, same_rows)))
    assert "read from partly the same directions" in said or "read from the same" in said
    many = adapters(*(factors(seed) for seed in (0, 1)))
    assert "No two agents' updates are related" in sentences.overlaps(measure(many))
    assert sentences.overlaps(measure(adapters(one))) == "There are no two updates to compare."


def test_how_much_of_the_rank_is_used():
    flat = {n: (torch.eye(10)[:3], torch.eye(8)[:, :3]) for n in NAMES}
    thin = {n: (A, B * torch.tensor([1.0, 0, 0])) for n, (A, B) in flat.items()}
    assert sentences.ranks(measure(adapters(flat))) == (
        "Updates use 3.0 of 3 directions in effect, nearly all that their rank allows "
        "(stable rank 3.0)."
    )
    said = sentences.ranks(measure(adapters(thin)))
    assert "use 1.0 of 3 directions in effect, less than half of what" in said
    mixed = {n: (thin if n in VALUES else flat)[n] for n in NAMES}
    assert "The fewest are in v_proj (1.0), the most in q_proj (3.0)." in sentences.ranks(
        measure(adapters(mixed))
    )
    nothing = {n: (A * 0, B) for n, (A, B) in flat.items()}
    assert sentences.ranks(measure(adapters(nothing))) == "No update uses any direction."
    assert sentences.sizes(measure(adapters(nothing))).startswith("All updates are zero")


def moves(drift, cosine=0.5, since=None, products=None):
    size = len(drift)
    before = np.ones((len(NAMES), size))
    cosines = np.full((size, size), cosine)
    np.fill_diagonal(cosines, 1.0)
    since = since or (0,) * size
    return Moves(since, products, before * np.array(drift) ** 2, before, cosines)


def test_movement():
    found = measure(adapters(factors(0), factors(1)))
    said = sentences.drift(found, moves([0.1, 0.4], since=(2, None), products=128))
    assert said.startswith(
        "agent_1's update has moved farthest since birth, by 40.0% of its size then (birth not "
        "recorded); agent_0's least, by 10.0% (born in generation 2)."
    )
    assert "They moved partly in the same direction (mean cosine 0.50" in said
    exact = sentences.drift(found, moves([0.1, 0.4], cosine=0.0, since=(2, 1)))
    assert "since the oldest generation on disk" in exact
    assert "(since generation 1)" in exact
    assert "mostly in directions of their own" in exact
    assert sentences.drift(found, moves([0.0, 0.0], products=8)) == (
        "No agent's weights have changed since birth."
    )
    assert "cannot be told" in sentences.drift(found, moves([np.nan, np.nan]))


def ablation(whole, without, base):
    bits = [tuple(map(bool, marks)) for marks in (whole, *without)]
    own = AblatedAgent("", bits[0], tuple(bits[1:]))
    return Ablation(7, ((0, 2), (3, 3), (4, 5)), tuple(map(bool, base)), {"agent_1": own}, {})


ALL, NONE, MOST = [1] * 40, [0] * 40, [1] * 39 + [0]


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (ablation(ALL, [ALL, NONE, ALL], NONE),
         "layer 3 alone costs most: -1.000 (-1.00 to -0.87); no other clearly does."),
        (ablation(ALL, [NONE, [0] * 20 + [1] * 20, ALL], NONE),
         "layers 0 to 2 alone costs most: -1.000 (-1.00 to -0.87); also costly: layer 3."),
        (ablation(ALL, [ALL, MOST, ALL], NONE),
         "No block of layers alone is needed, as far as these problems tell: the largest loss is"),
        (ablation(ALL, [ALL, ALL, ALL], NONE), "none lowers the accuracy when it is switched off."),
        (ablation(NONE, [NONE, ALL, ALL], NONE), "Without layer 3 and layers 4 to 5 it solves mor"),
    ],
)  # fmt: skip
def test_what_blocks_are_worth(measured, said):
    assert said in sentences.ablation(measured)
    share = sum(measured.agents["agent_1"].whole) / 40
    assert sentences.ablation(measured).startswith(
        f"agent_1 solves {share:.3f} of 40 training problems, 0.000 without its whole adapter: "
    )


def test_the_summary_is_of_the_same_figures():
    found = measure(adapters(factors(0), louder(factors(1), VALUES)))
    inside = Inside(7, found, 0, ("a", "b"), moves([0.1, 0.3], products=8), None)
    assert sentences.summary(inside) == (
        f"Of the agents' updates {found.common:.0%} is common to all; they differ most in v_proj "
        f"({sentences._largest_kind(found, found.own.mean(1))[1]:.0%} of the difference); they "
        "have moved by 20.0% since birth."
    )
    alone = Inside(7, measure(adapters(factors(0))), 0, ("a",), None, None)
    assert sentences.summary(alone) == ""
