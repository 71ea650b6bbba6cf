"""Workers that are killed at any moment, and graders that are forked or copied.

`POPULORA_KILLS` sets the number of kills (20 unless set).
"""

import asyncio
import copy
import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from populora_env.grading import Grader
from populora_env.grading.worker import MathWorker, Outcome
from populora_env.records import AnswerKind, GradeStatus, Problem

KILLS = int(os.environ.get("POPULORA_KILLS", "20"))
PATIENT = 30.0  # seconds for a check that takes milliseconds, on a machine that has other work
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")


def case(number: int) -> tuple[Problem, str, GradeStatus]:
    """A check for the worker: every other reply is wrong, and no two are the same."""
    problem = Problem.create(
        f"p{number}", rf"\sin(x)+{number}y", source="test", answer_kind=AnswerKind.MATH
    )
    right = number % 2 == 0
    reply = rf"\boxed{{{number if right else number + 1}y+\sin(x)}}"
    return problem, reply, GradeStatus.CORRECT if right else GradeStatus.WRONG


def is_running(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def child_of(process: int) -> int | None:
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return None
    return int(found[0]) if found else None


def kill(process: int | None) -> bool:
    if process is None:
        return False
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@needs_proc
def test_no_verdict_is_another_requests_whatever_is_killed():
    rng = random.Random(11)
    stop = threading.Event()
    lock = threading.Lock()
    seen: dict[GradeStatus, int] = {}
    strangers: list[tuple[int, GradeStatus]] = []
    given = iter(range(10**9))

    def grade_one(grader: Grader) -> None:
        with lock:
            number = next(given)
        problem, reply, expected = case(number)
        status = grader.grade(problem, reply).status
        with lock:
            seen[status] = seen.get(status, 0) + 1
            if status not in (expected, GradeStatus.TIMED_OUT):
                strangers.append((number, status))

    def grade_on(grader: Grader) -> None:
        while not stop.is_set():
            grade_one(grader)

    async def grade_async(grader: Grader) -> None:
        while not stop.is_set():
            await asyncio.gather(*(asyncio.to_thread(grade_one, grader) for _ in range(4)))

    def wanted() -> bool:
        with lock:
            return {GradeStatus.CORRECT, GradeStatus.WRONG} <= set(seen)

    with Grader(workers=3) as grader, ThreadPoolExecutor(5) as threads:
        pool = list(grader._workers.queue)
        running = [threads.submit(grade_on, grader) for _ in range(4)]
        running.append(threads.submit(lambda: asyncio.run(grade_async(grader))))
        kills = 0
        end = time.monotonic() + 60 + 2 * KILLS
        while kills < KILLS and time.monotonic() < end and not any(run.done() for run in running):
            time.sleep(rng.uniform(0.0, 0.05))
            program = rng.choice(pool)._program
            if program is not None and program.status is None:
                # Mostly the checking process; now and then the program that forks it.
                child = child_of(program.pid)
                whole = child is not None and rng.random() < 0.1
                kills += kill(program.pid if whole else child)
        with lock:
            seen.clear()
        end = time.monotonic() + 120  # verdicts after the last kill, however slow the machine is
        while not wanted() and time.monotonic() < end and not any(run.done() for run in running):
            time.sleep(0.02)
        stop.set()
        for run in running:
            run.result(120)
    assert kills >= KILLS // 2  # how many fall in the time depends on the machine
    assert strangers == []
    assert wanted(), seen


@pytest.mark.slow
@needs_proc
def test_a_death_while_idle_is_asked_again():
    worker = MathWorker(timeout=PATIENT)
    try:
        for number in range(6):
            assert worker.check("x+1", "1+x") is Outcome.EQUAL
            assert kill(child_of(worker._program.pid))
            if number % 2:
                time.sleep(0.05)
            assert worker.check("x+1", "2+x") is Outcome.DIFFERENT
        program = worker._program.pid
        assert kill(program)  # itself, and its child lives on
        worker._program.wait(9)
        assert worker.check("x+1", "1+x") is Outcome.EQUAL
        assert worker._program.pid != program
        os.killpg(worker._program.pid, signal.SIGKILL)
        assert worker.check("x+1", "2+x") is Outcome.DIFFERENT
    finally:
        worker.close()


@pytest.mark.slow
@needs_proc
def test_a_crash_just_before_the_deadline_leaves_the_next_verdicts_right():
    worker = MathWorker(timeout=PATIENT)
    try:
        for lead in (0.0, 0.002, 0.005, 0.01, 0.02):
            assert worker.check("x+1", "1+x") is Outcome.EQUAL
            child = child_of(worker._program.pid)
            timer = threading.Timer(0.3 - lead, kill, [child])
            worker._timeout = 0.3  # for the check that runs into it; the others have their time
            timer.start()
            assert worker.check("2", "9^{9^{9^9}}") is Outcome.EXHAUSTED
            timer.join()
            worker._timeout = PATIENT
            for _ in range(3):
                assert worker.check("x+1", "2+x") is Outcome.DIFFERENT
                assert worker.check("x+1", "1+x") is Outcome.EQUAL
    finally:
        worker.close()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_its_own_worker_and_leaves_the_parents_alone():
    program = """if True:
        import os, threading
        from populora_env.grading import Grader
        from populora_env.records import AnswerKind, Problem
        problem = Problem.create("p", "x+1", source="test", answer_kind=AnswerKind.MATH)
        grader = Grader(timeout=30.0)
        def right():
            verdicts = [grader.grade(problem, r"\\boxed{%d+x}" % n).correct for n in (1, 2)]
            return verdicts == [True, False]
        assert right()
        worker = grader._workers.queue[0]._program
        busy = grader._workers.get()  # as if another thread held it, which the child has not
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                fine = right()
                grader.close()
                os._exit(0 if fine else 1)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        grader._workers.put(busy)
        assert worker.status is None
        assert right()
        assert grader._workers.queue[0]._program is worker
        grader.close()
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copied_grader_has_its_own_workers(again):
    problem, reply, _ = case(2)
    with Grader(workers=2, timeout=31.0) as made:
        assert made.grade(problem, reply).correct is True
        with again(made) as copied:
            assert (copied._size, copied._timeout) == (2, 31.0)
            assert copied.grade(problem, reply).correct is True
        assert made.grade(problem, reply).correct is True
    with pytest.raises(RuntimeError, match="the grader is closed"):
        again(made).grade(problem, reply)


@needs_proc
def test_nothing_outlives_a_grader_that_is_dropped():
    grader = Grader(timeout=PATIENT)
    problem, reply, status = case(3)
    assert grader.grade(problem, reply).status is status
    (worker,) = (w for w in gc.get_objects() if isinstance(w, MathWorker) and w._program)
    program = worker._program.pid
    child = child_of(program)
    del worker, grader
    gc.collect()
    assert not is_running(program)
    assert not is_running(child)
