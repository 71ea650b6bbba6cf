"""The row ``peers`` of ``populora bench-engine``: ours beside other CPU engines.

Every contender answers the same prompts with replies of a fixed length: once with
``new_tokens + 1`` tokens, once with one. Decoding is what the first takes longer than the second,
for all alike; end to end is the first, prompts included. Ours runs bare and with all adapters
mixed, at every precision that a base can be loaded in here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from agents.engine.adapters import StackedLora
from agents.loading.linear import MatmulPrecision
from agents.loading.models import BaseModel, ModelError, load_base
from evolution.engine_benchmark.cpu_engines import ENGINES, Decode, EngineError, one_line
from evolution.engine_benchmark.rows import decode_greedily
from evolution.engine_benchmark.timing import Contender
from evolution.engine_benchmark.workbench import (
    Attachment,
    EndlessBase,
    Findings,
    Workbench,
    seconds,
    stacked,
)

PRECISIONS = tuple(str(own) for own in MatmulPrecision if own != MatmulPrecision.AUTO)
_REFERENCE = "base_float32"  # whose tokens the others' are compared with
_PARTS = {"decode": "decoding", "end_to_end": "end to end"}


class Runner:
    """A contender that may fail: then it says why, once, and the others go on.

    Args:
        bench: Whose requests it answers.
        decode: Answers them.

    Attributes:
        reason: Why it failed; empty while it has not.
        replies: Its last ones of full length.
    """

    def __init__(self, bench: Workbench, decode: Decode) -> None:
        self._bench, self._decode = bench, decode
        self.reason = ""
        self.replies: list[list[int]] = []

    def seconds(self, new_tokens: int) -> float:
        """Wall-clock seconds of replies of so many tokens; not a number once it has failed."""
        if self.reason:
            return math.nan
        prompts, made = self._bench.prompts(self._bench.sizes.rows), list[list[int]]()
        try:
            taken = seconds(
                self._bench.base.device, lambda: made.extend(self._decode(prompts, new_tokens))
            )
        # Engines of others raise whatever they like.
        except Exception as error:
            self.reason = one_line(error)
            return math.nan
        if lengths := {len(ids) for ids in made} - {new_tokens}:
            self.reason = f"replies of {min(lengths)} tokens, expected {new_tokens}"
            return math.nan
        if len(made) != len(prompts):
            self.reason = f"{len(made)} replies, expected {len(prompts)}"
            return math.nan
        self.replies = made if new_tokens > 1 else self.replies
        return taken


def peers_row(bench: Workbench) -> None:
    """Tokens per second of our engine and of others, and their ratios."""
    sizes, found = bench.sizes, bench.findings
    if bench.base.device.type != "cpu" or bench.base.model.dtype != torch.float32:
        found.missing("peers", "other CPU engines", "needs --device cpu --dtype float32")
        return
    runners: dict[str, Runner] = {}
    missing: dict[str, str] = {}
    for precision in PRECISIONS:
        try:
            base = _own_base(bench, precision)
        except ModelError as error:
            missing |= dict.fromkeys(_own(precision, sizes.agents), one_line(error))
            continue
        attachments = {0: None} | {
            size: stacked(base.model, size, sizes.rank, sizes.seed) for size in sizes.agents
        }
        for name, (size, attachment) in zip(
            _own(precision, sizes.agents), attachments.items(), strict=True
        ):
            runners[name] = Runner(bench, _decoder(base, attachment, size))
    for name, engine in ENGINES.items():
        try:
            runners[name] = Runner(bench, engine.ready(bench))
        except EngineError as error:
            missing[name] = str(error)
    contenders: dict[str, Contender] = {}
    for name, runner in runners.items():
        contenders[f"{name}_seconds"] = _timed(runner, sizes.new_tokens + 1)
        contenders[f"{name}_one_token_seconds"] = _timed(runner, 1)
    bench.race(contenders)
    missing |= {name: runner.reason for name, runner in runners.items() if runner.reason}
    for name in runners:
        if name not in missing:
            _rates(bench, name)
    report = _Report(found, _whats(sizes.agents), missing)
    report.contenders(runners)
    for precision in PRECISIONS:
        bare, *mixed = _own(precision, sizes.agents)
        for size, name in zip(sizes.agents, mixed, strict=True):
            report.ratio(f"population_decode_ratio_{size}_{precision}", name, bare, "decode")
    first = sizes.agents[0]
    for other, engine in ENGINES.items():
        bare, mixed = _own(engine.precision, [first])
        report.ratio(f"base_decode_vs_{other}", bare, other, "decode")
        report.ratio(f"mixed_{first}_end_to_end_vs_{other}", mixed, other, "end_to_end")


def _own(precision: str, sizes: Sequence[int]) -> list[str]:
    """Our contenders' names at a precision: bare, then with each number of adapters."""
    return [f"base_{precision}", *(f"mixed_{size}_{precision}" for size in sizes)]


def _own_base(bench: Workbench, precision: str) -> BaseModel:
    bench.tell(f"our base in {precision}")
    dtype = str(bench.base.model.dtype).removeprefix("torch.")
    return EndlessBase.of(
        load_base(bench.base.name, dtype=dtype, device=str(bench.base.device), products=precision)
    )


def _decoder(base: BaseModel, attachment: Attachment | None, size: int) -> Decode:
    def decode(prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        def run(lora: StackedLora | None) -> list[list[int]]:
            replies = decode_greedily(base, lora, prompts, new_tokens - 1, size)
            return [list(reply.ids) for reply in replies]

        if attachment is None:
            return run(None)
        with attachment.on() as lora:
            return run(lora)

    return decode


def _timed(runner: Runner, new_tokens: int) -> Callable[[int], float]:
    return lambda _: runner.seconds(new_tokens)


def _rates(bench: Workbench, name: str) -> None:
    """Tokens per second of a contender in each round, from its seconds."""
    sizes, rounds = bench.sizes, bench.findings.rounds
    whole, first = rounds[f"{name}_seconds"], rounds[f"{name}_one_token_seconds"]
    rounds[f"{name}_end_to_end"] = tuple(sizes.rows * (sizes.new_tokens + 1) / s for s in whole)
    rounds[f"{name}_decode"] = tuple(
        sizes.rows * sizes.new_tokens / max(s - one, 1e-9)
        for s, one in zip(whole, first, strict=True)
    )


def _whats(sizes: Sequence[int]) -> dict[str, str]:
    """What the table calls each contender."""
    whats: dict[str, str] = {}
    for precision in PRECISIONS:
        said = ["bare base", *(f"{size} agents" for size in sizes)]
        names = _own(precision, sizes)
        whats |= {name: f"{who} {precision}" for name, who in zip(names, said, strict=True)}
    return whats | {name: engine.what for name, engine in ENGINES.items()}


@dataclass(frozen=True, slots=True)
class _Report:
    """Writes figures of contenders, or the one line that says why there are none.

    Attributes:
        found: Where they go.
        whats: Contender to what the table calls it.
        missing: Contender to why it was not measured.
    """

    found: Findings
    whats: Mapping[str, str]
    missing: Mapping[str, str]

    def contenders(self, runners: Mapping[str, Runner]) -> None:
        """Each contender's own tokens per second, and how many of its tokens are our base's."""
        own = runners.get(_REFERENCE)
        for name, what in self.whats.items():
            if name in self.missing:
                self.found.missing(f"{name}_decode_tokens_per_second", what, self.missing[name])
                continue
            for part, said in _PARTS.items():
                values = self.found.rounds[f"{name}_{part}"]
                self.found.add(
                    f"{name}_{part}_tokens_per_second", f"{what}, {said}, tokens/s", values
                )
            if own and not own.reason and not name.startswith("mixed_"):
                share = same_tokens(own.replies, runners[name].replies)
                self.found.add(f"{name}_same_tokens", f"{what}, tokens as our float32", [share])

    def ratio(self, key: str, contender: str, to: str, part: str) -> None:
        """The ratio of two contenders, round by round."""
        names = (contender, to)
        what = " / ".join(self.whats.get(name, name) for name in names) + f", {_PARTS[part]}"
        reasons = [f"no {name} here" for name in names if name not in self.whats]
        reasons += [f"no {self.whats[name]}" for name in names if name in self.missing]
        if reasons:
            self.found.missing(key, what, reasons[0])
        else:
            self.found.ratio(key, what, f"{contender}_{part}", f"{to}_{part}")


def same_tokens(replies: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    """Share of places that hold the same token; replies are as many and as long."""
    pairs = [
        a == b
        for mine, theirs in zip(replies, others, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    ]
    return sum(pairs) / len(pairs)
