"""Random edits of a run's files, as an accident, another program or a stranger may make them."""

from __future__ import annotations

import json
import random

from evolution.reporting.anatomy.ablation import (
    AblatedAgent,
    Ablation,
    ablation_file,
    ablation_text,
)
from tests.evolution.made_up_adapters import NAMES, factors, write_adapters
from tests.evolution.synthetic_run import write_measured, write_run

_DEEP = "[" * 200_000
_VALUES = (
    None, True, False, 0, 1, -1, 2**63, 10**400, -(10**30), 0.5, -0.25, 1e308, -1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), "", "x", "7", "agent_0", "tie", "\ud800", "\x1b[31m",
    "<script>", [], {}, [1, "a"], [[]], {"a": 1}, [None, None], {"": None}, "x" * 5000,
    "\u2028", [0.5] * 3, {"weights": [1, 2]}, 3.0, "NaN",
)  # fmt: skip


def write_full_run(folder, *, saved):
    """Write a run in which every file that a report reads is there.

    Args:
        saved: Whether its last generation is saved, which says how long the growing files were.
    """
    write_run(folder, generations=7, agents=3, problems=2)
    write_measured(folder)
    write_adapters(folder, 6, [factors(seed) for seed in range(3)])
    one = AblatedAgent("", (True,) * 4, ((False,) * 4, (True,) * 4))
    norms = dict.fromkeys(NAMES, 2.0)
    ablated = Ablation(6, ((0, 2), (3, 5)), (False,) * 4, {"agent_1": one}, norms)
    (folder / "ablation").mkdir()
    ablation_file(folder, 6).write_text(ablation_text(ablated))
    change = {"generation": 3, "option": "rank", "from": 4, "to": 8, "note": "more"}
    (folder / "changes.jsonl").write_text(json.dumps(change) + "\n")
    state = folder / "generation_0006" / "state.json"
    if saved:
        state.write_text(json.dumps({"format": 4, **json.loads(state.read_text())}))
    else:
        state.unlink()
    return folder


def files_of(folder):
    """Return the files that can be edited, in a fixed order."""
    kinds = {".json", ".jsonl", ".toml"}
    return sorted(file for file in folder.rglob("*") if file.suffix in kinds)


def edit(file, rng: random.Random):
    """Edit a file at random; return what was done in words."""
    if file.suffix == ".toml" or rng.random() < 0.3:
        return _edit_bytes(file, rng)
    place = None
    try:
        text = file.read_text(encoding="utf-8")
        lines = text.split("\n") if file.suffix == ".jsonl" else None
        if lines is not None:
            place = rng.randrange(len(lines) - 1)
        data = json.loads(text if place is None else lines[place])
    except (ValueError, RecursionError):  # edited before
        return _edit_bytes(file, rng)
    done = [_edit_value(data, rng) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
    text = json.dumps(data)
    if lines is not None:
        lines[place] = text
        text = "\n".join(lines)
    file.write_text(text, encoding="utf-8")
    return f"{file.name} {place}: {'; '.join(done)}"


def _edit_value(data, rng):
    """Replace, delete, rename, double or exchange an entry somewhere in JSON."""
    nodes = [(data, key) for key in _keys(data)]
    for parent, key in nodes:
        nodes += [(parent[key], inner) for inner in _keys(parent[key])]
    if not nodes:
        return "nothing"
    parent, key = rng.choice(nodes)
    what = rng.choice(("replace", "replace", "replace", "delete", "rename", "double", "exchange"))
    if what == "replace":
        parent[key] = value = rng.choice(_VALUES)
        return f"{key!r} = {str(value)[:40]!r}"
    if what == "delete":
        del parent[key]
    elif what == "rename" and isinstance(parent, dict):
        parent[rng.choice(("x", "", "generation", "agent", "problem"))] = parent.pop(key)
    elif what == "double" and isinstance(parent, list):
        parent.append(parent[key])
    else:
        other, place = rng.choice(nodes)
        if place in _keys(other) if isinstance(other, dict) else place < len(other):
            value = json.loads(json.dumps(other[place]))
            parent[key] = value
    return f"{what} {key!r}"


def _keys(node):
    if isinstance(node, dict):
        return list(node)
    return list(range(len(node))) if isinstance(node, list) else []


def _edit_bytes(file, rng):
    data = bytearray(file.read_bytes() or b"\n")
    where = rng.randrange(len(data))
    what = rng.choice(("flip", "cut", "insert", "drop", "lines", "number", "deep", "word"))
    if what == "flip":
        data[where] ^= 1 << rng.randrange(8)
    elif what == "cut":
        del data[where:]
    elif what == "insert":
        data[where:where] = rng.randbytes(rng.randrange(1, 9))
    elif what == "drop":
        del data[where : where + rng.randrange(1, 60)]
    elif what == "deep":
        data[where:where] = _DEEP.encode()
    elif what == "word":
        words = (b"1e999", b"nan", b"inf", b"-1", b"null", b"[]", b"{}", b'""', b"9" * 5000, b"\n")
        data[where : where + rng.randrange(3)] = rng.choice(words)
    elif what == "number":
        digits = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
        if digits:
            place = rng.choice(digits)
            data[place : place + 1] = rng.choice((b"9" * 30, b"-5", b"1e400", b"0x1", b"[1]", b"x"))
    else:
        lines = bytes(data).split(b"\n")
        order = rng.choice(("swap", "double", "remove"))
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        if order == "swap":
            lines[a], lines[b] = lines[b], lines[a]
        elif order == "double":
            lines.insert(a, lines[b])
        else:
            del lines[a]
        data = bytearray(b"\n".join(lines))
        what = order
    file.write_bytes(bytes(data))
    return f"{file.name}: {what} at {where}"
