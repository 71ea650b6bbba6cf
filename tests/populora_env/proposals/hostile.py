"""Texts that no kind of task may stumble over."""

from collections.abc import Iterator, Sequence

import numpy as np

ALPHABETS = [
    "0123456789+-*/() ",
    "0123456789+-*/()=?.,:;xX\u00d7\u00f7\u2212$\"'`^!% \n",
    "{}[]\"':,=_ \n0123456789generatortermsdigitschain_sum",
    "".join(map(chr, range(128))),
    "\x00\ud800\udfff\u202e\u2028\u0663\u096b\U0001d7db\uff11\u00b2\u00bd\u00e9\u4e2d\n +-*3",
]


def texts(count: int, seed: int, valid: Sequence[str]) -> Iterator[str]:
    """Yield texts of several alphabets, and valid ones with a few characters changed."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        alphabet = ALPHABETS[number % len(ALPHABETS)]
        if number % 2:
            text = list(valid[int(rng.integers(len(valid)))])
            for _ in range(int(rng.integers(1, 4))):
                at = int(rng.integers(len(text) + 1))
                text[at : at + int(rng.integers(2))] = alphabet[int(rng.integers(len(alphabet)))]
            yield "".join(text)
        else:
            size = int(rng.integers(60))
            yield "".join(alphabet[int(at)] for at in rng.integers(len(alphabet), size=size))


HUGE = [
    "",
    "\x00" * 1000,
    "\ud800" * 1000,
    "a" * 100_000,
    "1" * 100_000,
    "(" * 10_000,
    "(" * 10_000 + "1+1" + ")" * 10_000,
    "[" * 10_000,
    "{" * 10_000 + "}" * 10_000,
    "-" * 100_000 + "3+4",
    "1+" * 50_000 + "1",
    "9*" * 50_000 + "9",
    "1/2+" * 50_000 + "1",
    " " * 100_000 + "3 + 4",
    "\n" * 100_000,
    '"' * 100_000,
    ":" * 100_000,
    "x=" * 50_000,
    "-(" * 1000 + "1+1" + ")" * 1000,
]
