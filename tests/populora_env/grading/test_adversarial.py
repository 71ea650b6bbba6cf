"""Sixty answers made to hang, exhaust or fool a grader; none is right, none gets in the way."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from populora_env.grading import Grader
from populora_env.records import AnswerKind, GradeStatus, Problem

TIMEOUT = 1.0
SLACK = 0.5  # what an answer may take beyond the timeout; the sum over all is held to it
LOADED = 5.0  # seconds by which one answer may be late on a machine that is busy with other tests


def boxed(text):
    return rf"\boxed{{{text}}}"


NUMBER, MATH = Problem.create("?", "18"), Problem.create("?", "x+7", "math")
ROOT = Problem.create("?", r"7\sqrt{3}", AnswerKind.MATH)
MEGABYTE = 10**6

ADVERSARIAL = [
    # towers of powers
    (MATH, boxed("9^{9^{9^9}}")),
    (MATH, boxed("9^{9^9}")),
    (MATH, boxed("10^{10^{10^{10^{10}}}}")),
    (MATH, boxed("(((9^9)^9)^9)^{9^9}")),
    (MATH, boxed("2^{10000000000}")),
    (MATH, boxed("x^{9^{9^9}}")),
    (MATH, boxed("9**9**9**9")),
    (MATH, boxed("\\left(1+x\\right)^{999999}")),
    (ROOT, boxed("\\sqrt{9^{9^{9^9}}}")),
    (ROOT, boxed("3^{3^{3^{3^{3}}}} \\bmod 7")),
    # factorials, binomials, sums, integrals
    (MATH, boxed("(10^9)!")),
    (MATH, boxed("9999999!")),
    (MATH, boxed("((((9!)!)!)!)!")),
    (MATH, boxed("\\binom{10^{10}}{10^9}")),
    (ROOT, boxed("\\sum_{k=1}^{10^{12}} \\frac{1}{k^k}")),
    (ROOT, boxed("\\prod_{k=1}^{10^9} k")),
    (ROOT, boxed("\\int_0^\\infty e^{-x^{x^x}} \\sin(x^x) dx")),
    (ROOT, boxed("\\lim_{n\\to\\infty} \\sum_{k=1}^{n} \\frac{\\sin k^k}{k!}")),
    # nesting
    (MATH, boxed("(" * 400 + "x" + ")" * 400)),
    (MATH, boxed("(" * 3000 + "x")),
    (MATH, boxed("\\sqrt{" * 300 + "x" + "}" * 300)),
    (MATH, boxed("\\frac{1}{" * 200 + "x" + "}" * 200)),
    (MATH, boxed("x^{" * 400 + "2" + "}" * 400)),
    (MATH, boxed("\\left(" * 250 + "x" + "\\right)" * 250)),
    (MATH, boxed("|" * 500 + "x" + "|" * 500)),
    (MATH, boxed("\\{" * 300 + "x" + "\\}" * 300)),
    (MATH, boxed("-" * 2000 + "x")),
    (MATH, "\\boxed{" * 5000 + "x"),
    # megabytes
    (NUMBER, "9" * MEGABYTE),
    (NUMBER, "Answer: " + "9" * MEGABYTE),
    (NUMBER, "1," * (MEGABYTE // 2)),
    (NUMBER, "#### " * (MEGABYTE // 5)),
    (NUMBER, "answer is " * (MEGABYTE // 10)),
    (NUMBER, "$" * MEGABYTE),
    (NUMBER, "<<" * (MEGABYTE // 2)),
    (NUMBER, "<<1=" * (MEGABYTE // 4)),
    (NUMBER, "Answer: " + "1 or " * (MEGABYTE // 5)),
    (NUMBER, " " * MEGABYTE + "17"),
    (NUMBER, "\\boxed{" * (MEGABYTE // 7)),
    (NUMBER, "18" + "\n" * MEGABYTE + "17"),
    (MATH, boxed("x+" * (MEGABYTE // 2) + "x")),
    (MATH, boxed("x" * 3990)),
    (MATH, boxed("+".join(f"x^{{{i}}}" for i in range(450)))),
    (MATH, boxed("(x+1)" * 700)),
    (MATH, "$" * MEGABYTE),
    (MATH, "\\(" * (MEGABYTE // 2)),
    # bytes that are no text, and senseless LaTeX
    (NUMBER, "\x00" * 1000 + "17\x00"),
    (NUMBER, "1\x008"),
    (MATH, boxed("x+7\x00")),
    (MATH, boxed("\ud800\udfff")),
    (MATH, boxed("\\def\\x{\\x\\x}\\x")),
    (MATH, boxed("\\input{/etc/passwd}")),
    (MATH, boxed("\\loop\\iftrue\\repeat")),
    (MATH, boxed("__import__('os').system('sleep 30')")),
    (MATH, boxed("\\begin{pmatrix}" + "1 & " * 300 + "1\\\\" * 100 + "\\end{pmatrix}")),
    # spraying
    (NUMBER, "Answer: 15, 16, 17, 18, 19, 20"),
    (NUMBER, "Answer: 18 or 19"),
    (NUMBER, " ".join(boxed(i) for i in range(10, 19))),
    (NUMBER, "It is " + " or ".join(map(str, range(1000)))),
    (MATH, boxed("x+7, x+8, x+9")),
]


def children():
    """Return the ids of this process's descendants, by /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, front = set(), {os.getpid()}
    while front:
        front = {child for child, parent in parents.items() if parent in front} - found
        found |= front
    return found


proc_only = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def test_there_are_sixty():
    assert len(ADVERSARIAL) == 60


@proc_only
@pytest.mark.slow
def test_each_ends_in_time_is_not_right_and_leaves_no_process():
    before = children()
    late, took = [], []
    with Grader(timeout=TIMEOUT) as grader:
        for index, (problem, reply) in enumerate(ADVERSARIAL):
            start = time.perf_counter()
            grade = grader.grade(problem, reply)
            took.append(time.perf_counter() - start)
            assert grade.correct is False, (index, grade)
            if took[-1] > TIMEOUT + LOADED:
                late.append((index, took[-1]))
        assert not late
        assert sum(took) / len(took) < TIMEOUT + SLACK
    assert children() <= before


@pytest.mark.slow
def test_neighbours_keep_their_verdicts():
    ordinary = [
        (MATH, boxed("7+x"), True),
        (MATH, boxed("x+8"), False),
        (ROOT, boxed(r"\sqrt{147}"), True),
        (NUMBER, "#### 18", True),
        (NUMBER, "#### 17", False),
    ]
    pairs, expected = [], []
    for index, hostile in enumerate(ADVERSARIAL):
        problem, reply, correct = ordinary[index % len(ordinary)]
        pairs += [hostile, (problem, reply)]
        expected += [False, correct]
    with Grader(workers=2, timeout=TIMEOUT) as grader:
        grades = grader.grade_many(pairs)
    assert [grade.correct for grade in grades] == expected


@pytest.mark.slow
def test_main_thread_worker_thread_and_asyncio_agree():
    # Without the few that take their whole timeout.
    pairs = [
        (MATH, boxed("7+x")),
        (MATH, boxed("(10^9)!")),
        (MATH, boxed("\\def\\x{\\x\\x}\\x")),
        (MATH, boxed("x+7, x+8")),
        (ROOT, boxed(r"\sqrt{147}")),
        (NUMBER, "Answer: 18 or 19"),
        (NUMBER, "#### 18"),
        (NUMBER, ""),
    ]
    with Grader(workers=2, timeout=TIMEOUT) as grader:

        def verdicts():
            return [(grade.correct, grade.status) for grade in map(grade_pair, pairs)]

        def grade_pair(pair):
            return grader.grade(*pair)

        async def in_loop():
            inside = [grader.grade(*pair) for pair in pairs]
            beside = await asyncio.gather(
                *(asyncio.to_thread(grader.grade, *pair) for pair in pairs)
            )
            return [[(grade.correct, grade.status) for grade in part] for part in (inside, beside)]

        main = verdicts()
        threaded: list = []
        thread = threading.Thread(target=lambda: threaded.extend(verdicts()))
        thread.start()
        thread.join()
        inside, beside = asyncio.run(in_loop())
    assert main == threaded == inside == beside
    assert main[0] == (True, GradeStatus.CORRECT)
    assert main[5] == (False, GradeStatus.SEVERAL)
    assert main[7] == (False, GradeStatus.NO_ANSWER)


@proc_only
def test_a_caller_that_is_killed_leaves_no_process():
    script = (
        "import os, signal\n"
        "from populora_env import Grader, Problem\n"
        "grader = Grader()\n"
        "grader.grade(Problem.create('?', 'x+1', 'math'), r'\\boxed{1+x}')\n"
        "print(grader._workers.queue[0]._program.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    worker = Path(f"/proc/{int(done.stdout)}/stat")
    deadline = time.monotonic() + 20
    while worker.exists() and time.monotonic() < deadline:
        if worker.read_text().rpartition(")")[2].split()[0] == "Z":
            break  # ended; whoever inherited it has not collected it yet
        time.sleep(0.05)
    else:
        assert not worker.exists()
