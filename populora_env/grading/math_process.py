"""The program that a worker process runs: mathematical equivalence by math-verify.

Started as a script by `worker.MathWorker`, so it imports nothing of this project. It imports the
mathematics once and then forks: its child reads one JSON object a line from standard input,
``{"number": 1, "gold": ..., "answer": ..., "seconds": ..., "until": ...}``, and writes one,
``{"number": 1, "outcome": "equal"}``. Numbers rise; a request whose number was taken before, or
whose caller no longer waits (``until``, on the monotonic clock), is passed over. SIGUSR1 asks the
parent to kill the child; whenever a child has died, the parent forks another within milliseconds
and writes ``ready`` and the last number that any child has taken. SIGTERM ends both. The child's
memory is limited, and an alarm with no handler ends it soon after the caller's own limit, so that
it cannot outlive a caller that was killed. Stopping a check in time is the caller's task: an alarm
alone does not interrupt every computation. Where there is no fork, the program answers requests
itself.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import mmap
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

Check = Callable[[str, str], str]


def load() -> Check:
    """Import the mathematics and return the check."""
    logging.disable(logging.CRITICAL)
    from math_verify import LatexExtractionConfig, grader, parse, verify

    shown: dict[Any, int] = {}  # how many decimals a number is written with, zeros included
    # Theirs has an absolute error of 1e-15.
    grader.sympy_numeric_eq = functools.partial(_numbers_agree, shown)

    # Only LaTeX: the other extraction picks some number out of what it cannot parse.
    # Units are taken off before, in `units`: it takes the h of 2\\pi r h for hours.
    defaults = LatexExtractionConfig()
    normal = dataclasses.replace(defaults.normalization_config, units=False)
    latex = [dataclasses.replace(defaults, normalization_config=normal)]

    def compare(gold: str, answer: str) -> str:
        shown.clear()
        shown.update(_decimals(f"{gold} {answer}"))
        # parsing_timeout and timeout_seconds off: both raise alarms and exceptions of their own.
        left = parse(f"${gold}$", latex, "no_fallback", parsing_timeout=None)  # type: ignore[arg-type]
        right = parse(f"${answer}$", latex, "no_fallback", parsing_timeout=None)  # type: ignore[arg-type]
        if not right:
            return "unreadable"
        right = [_as_known(shown, left, part) for part in right]
        equal = bool(left) and verify(
            left, right, allow_set_relation_comp=True, timeout_seconds=None
        )
        return "equal" if equal else "different"

    # Loads what is loaded lazily, before the first timed request.
    for gold, answer in (("\\frac{1}{2}", "0.5"), ("(1,\\sqrt{2})", "(1,2)"), ("x+1=y", "1+x")):
        compare(gold, answer)
    return compare


def _numbers_agree(
    shown: dict[Any, int], left: Any, right: Any, _places: int, _precision: int
) -> bool:
    """Return whether two numbers or matrices of them are equal, at any size.

    Decimals are exact, but one of at least six decimals and five digits that count is as good as
    a number that never ends if it is that number, rounded or cut there (as in `numerals`).
    """
    import sympy

    if isinstance(left, sympy.MatrixBase) and isinstance(right, sympy.MatrixBase):
        return left.shape == right.shape and all(
            grader_equal(one, other) for one, other in zip(left.flat(), right.flat(), strict=True)
        )
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return False
    if left.free_symbols or right.free_symbols:
        return False
    endless = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)
    decimals = [isinstance(side, sympy.Float) for side in (left, right)]
    left, right = (
        side.xreplace({part: _exact(part) for part in side.atoms(sympy.Float)}).doit()
        for side in (left, right)
    )
    if left == right:
        return True
    if any(side.has(*endless) for side in (left, right)):
        return False  # infinity less anything is infinity, which is no small difference
    if left.is_Rational and right.is_Rational and not any(decimals):
        return False
    for decimal, other, written in ((left, right, decimals[0]), (right, left, decimals[1])):
        if written and decimal.is_Rational and not _ends(other):
            return _is_cut_or_rounded(shown, decimal, other)
    if any(decimals):
        return bool(left == right)
    near, far = sympy.N(left - right, 30, maxn=400), sympy.N(left, 30, maxn=400)
    return bool(abs(near) <= abs(far) * sympy.Rational(1, 10**120)) if far != 0 else near == 0


def _decimals(text: str) -> dict[Any, int]:
    """Return how many decimals each number of a text has: 6 of ``0.577350``."""
    import sympy

    found = dict[Any, int]()
    for match in itertools.islice(re.finditer(r"(?<![0-9])[0-9]{0,50}\.([0-9]{6,50})", text), 50):
        value = sympy.Rational(match[0])
        found[value] = max(found.get(value, 0), len(match[1]))
    return found


def _as_known(shown: dict[Any, int], known: list[Any], given: Any) -> Any:
    """Return an answer whose decimals are written as numbers of the known one that never end.

    ``x + 0.333333`` becomes ``x + 1/3`` where that is in the known answer.
    """
    import sympy

    if not isinstance(given, sympy.Basic) or not given.has(sympy.Float) or given.is_Float:
        return given
    endless = list[Any]()
    for part in known:
        if isinstance(part, sympy.Basic):
            for inner in itertools.islice(sympy.preorder_traversal(part), 200):
                if isinstance(inner, sympy.Mul):
                    inner = inner.as_independent(*inner.free_symbols)[0]
                if isinstance(inner, sympy.Expr) and inner.is_number and not _ends(inner):
                    endless.append(inner)
    exact = dict[Any, Any]()
    for decimal in given.atoms(sympy.Float):
        value = _exact(decimal)
        for number in endless[:50]:
            if _is_cut_or_rounded(shown, value, number):
                exact[decimal] = number
                break
    return given.xreplace(exact) if exact else given


def grader_equal(one: Any, other: Any) -> bool:
    """Return whether two entries of a matrix are equal."""
    from math_verify import grader

    return bool(grader.sympy_expr_eq(one, other, 6, 15))


def _exact(decimal: Any) -> Any:
    import sympy

    text = str(decimal)
    # Computers print 17 digits of numbers that they know to 15.
    known = len(re.sub(r"^[-0.]*|\.|e.*", "", text)) > 17
    return sympy.Rational(text if known else str(sympy.Float(text, 15)))


def _ends(number: Any) -> bool:
    """Return whether a number is a decimal that ends."""
    if not number.is_Rational:
        return False
    rest = int(number.q)
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _is_cut_or_rounded(shown: dict[Any, int], decimal: Any, other: Any) -> bool:
    import sympy

    places = shown.get(abs(decimal), 0)
    while (decimal * 10**places).q != 1:
        places += 1
    if places < 6 or len(str(abs((decimal * 10**places).p))) < 5:
        return False
    value = sympy.N(other, max(50, places + 20))
    if not value.is_real:
        return False
    scaled, written = abs(value) * 10**places, abs(decimal) * 10**places
    same_sign = (value < 0) == (decimal < 0)
    return bool(same_sign and written in (sympy.floor(scaled), sympy.floor(scaled + 0.5)))


class Taken:
    """The last request's number, in memory that a child shares with its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def number(self) -> int:
        """The number; 0 before the first request."""
        return int.from_bytes(self._memory[:8], "little")

    @number.setter
    def number(self, number: int) -> None:
        self._memory[:8] = number.to_bytes(8, "little")


def serve(check: Check, memory: int, taken: Taken) -> None:
    """Answer requests until standard input ends."""
    _limit_memory(memory)
    for line in sys.stdin:
        request = json.loads(line)
        if request["number"] <= taken.number or time.monotonic() > request["until"]:
            continue  # asked twice because a child died, or given up by now
        taken.number = request["number"]
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 2 * request["seconds"] + 5)
        try:
            outcome = check(request["gold"], request["answer"])
        except MemoryError:
            outcome = "exhausted"
        except Exception:
            outcome = "unreadable"
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        say(json.dumps({"number": request["number"], "outcome": outcome}))


def supervise(check: Check, memory: int) -> None:
    """Keep one child that answers requests until standard input ends or SIGTERM comes."""
    child = 0
    taken = Taken()

    def kill_child(_signal: int, _frame: FrameType | None) -> None:
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def end(_signal: int, _frame: FrameType | None) -> None:
        if child:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        os._exit(0)

    ours = {signal.SIGUSR1, signal.SIGTERM}
    while True:
        # Blocked while `child` is not yet known, so that neither signal can miss it.
        signal.pthread_sigmask(signal.SIG_BLOCK, ours)
        child = os.fork()
        if child == 0:
            for number in ours:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)
            serve(check, memory, taken)
            os._exit(0)
        signal.signal(signal.SIGUSR1, kill_child)
        signal.signal(signal.SIGTERM, end)
        say(f"ready {taken.number}")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)
        _, status = os.waitpid(child, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, ours)
        child = 0
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return  # the child saw the end of its input


def say(line: str) -> None:
    """Write a line to the caller."""
    os.write(_CALLER, f"{line}\n".encode("ascii"))


def _limit_memory(extra_bytes: int) -> None:
    """Limit the address space to what is in use now and ``extra_bytes`` more."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as statm:
            in_use = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + extra_bytes, in_use + extra_bytes))
    except (ImportError, OSError, ValueError):
        return  # no such limits on this system: the time limit still holds


if __name__ == "__main__":
    _CALLER = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is not a reply
    mathematics = load()
    if hasattr(os, "fork"):
        supervise(mathematics, int(sys.argv[1]))
    else:
        say("ready 0")
        serve(mathematics, int(sys.argv[1]), Taken())
