"""Hostile functions end within limits, and nothing of them is left."""

import contextlib
import copy
import gc
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from populora_env.code.literals import LIMIT
from populora_env.code.sandbox import Run, RunStatus, Sandbox, SandboxError, check_installed

with_monty = pytest.mark.skipif(
    importlib.util.find_spec("pydantic_monty") is None,
    reason="pydantic-monty is not installed",
)
SECONDS = 0.5
DOUBLE = "def f(x):\n    return x * 2"
STOPPED = {RunStatus.EXHAUSTED}
REFUSED = {RunStatus.RAISED, RunStatus.UNSUPPORTED}

HOSTILE = {
    "power tower": ("return 9**9**9**9", STOPPED),
    "list times a number": ("return [0] * 10**10", STOPPED),
    "text times a number": ("return 'a' * 10**11", STOPPED),
    "doubling": ("while True:\n        x = x + x", STOPPED),
    "joined": ("return ','.join(['a' * 10**6] * 10**6)", STOPPED),
    "one list many times": (
        "t = [0] * 1000\n    for i in range(4):\n        t = [t] * 1000\n    return t",
        STOPPED,
    ),
    "recursion": ("return f(x)", STOPPED),
    "mutual recursion": ("return g(x)\ndef g(x):\n    return f(x)", STOPPED),
    "loop": ("while True:\n        pass", STOPPED),
    "flood": ("while True:\n        print('flood' * 100)", STOPPED),
    "deep brackets": (f"return {'(' * 10_000}1{')' * 10_000}", REFUSED),
    "deep lists": (
        "t = []\n    for i in range(10**6):\n        t = [t]\n    return t",
        {RunStatus.EXHAUSTED, RunStatus.NOT_PLAIN},
    ),
    "attribute walk": ("return ().__class__.__base__.__subclasses__()", REFUSED),
    "file": ("return open('/etc/passwd').read()", REFUSED),
    "file to write": ("open('/tmp/populora-was-here', 'w').write('x')\n    return x", REFUSED),
    "socket": ("import socket\n    return socket.socket()", REFUSED),
    "environment": ("import os\n    return os.environ['HOME']", REFUSED),
    "fork": ("import os\n    return os.fork()", REFUSED),
    "command": ("return __import__('os').system('touch /tmp/populora-was-here')", REFUSED),
    "caught": (
        "while True:\n        try:\n            while True:\n                pass\n"
        "        except BaseException:\n            pass",
        STOPPED,
    ),
    "caught memory": (
        "t = []\n    while True:\n        try:\n            t.append('a' * 10**6 + str(len(t)))\n"
        "        except BaseException:\n            pass",
        STOPPED,
    ),
    "exec": ("exec('while True: pass')\n    return x", STOPPED),
    "eval": ("return eval('9**9**9**9')", STOPPED),
    "generator": (
        "def g():\n        while True:\n            yield 1\n    return sum(g())",
        REFUSED,
    ),
    "endless iterator": ("import itertools\n    return sum(itertools.count())", STOPPED),
    "huge format": ("return len(f'{x:>{10**9}}')", STOPPED),
    "regular expression": (
        "import re\n    return re.match('(a+)+$', 'a' * 40 + 'b')",
        {RunStatus.DONE, RunStatus.EXHAUSTED, RunStatus.RAISED},
    ),
    "sleep": (
        "import time\n    time.sleep(10**6)\n    return x",
        {RunStatus.DONE, RunStatus.RAISED},
    ),
    "id": ("return id([])", {RunStatus.UNSTABLE, RunStatus.RAISED}),
    "random": ("import random\n    return random.random()", {RunStatus.UNSTABLE}),
    "random without a name": (
        "import random\n    return random.Random().random()",
        {RunStatus.UNSTABLE, RunStatus.RAISED},
    ),
    "entropy": ("import os\n    return os.urandom(8)[0]", REFUSED),
    "time": ("import time\n    return time.time()", {RunStatus.UNSTABLE}),
    "date": ("import datetime\n    return datetime.date.today().year", {RunStatus.UNSTABLE}),
    "huge exception": ("raise ValueError('x' * 10**7)", {RunStatus.RAISED}),
    "timeout of its own": ("raise TimeoutError('x')", STOPPED),
    "result of its own": (
        "class A:\n        def __repr__(self):\n            return 'x' * 10**7\n    return A()",
        {RunStatus.NOT_PLAIN, *REFUSED},
    ),
    "function": ("return f", {RunStatus.NOT_PLAIN, RunStatus.UNSTABLE}),
    "nan": ("return float('nan')", {RunStatus.NOT_PLAIN}),
}


def rows() -> list[list[str]]:
    """Process id, parent, group, state and kilobytes of memory of all processes."""
    done = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,pgid=,stat=,rss="], capture_output=True, text=True, check=True
    )
    return [line.split() for line in done.stdout.splitlines()]


def group(leader: int) -> dict[int, int]:
    """Memory in bytes of the processes of a group that live, by process id."""
    return {
        int(pid): 1024 * int(rss)
        for pid, _, pgid, state, rss in rows()
        if pgid == str(leader) and not state.startswith("Z")
    }


@pytest.fixture(scope="module")
def shared():
    with contextlib.closing(Sandbox(SECONDS)) as sandbox:
        yield sandbox


@with_monty
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_functions_end_and_the_next_call_works(name, shared):
    body, expected = HOSTILE[name]
    began = time.monotonic()
    run = shared.run(f"def f(x):\n    {body}", "1", twice=True)
    assert run.status in expected, run
    assert (run.value is None) is (run.status is not RunStatus.DONE)
    assert len(run.reason) < 200
    assert time.monotonic() - began < 2 * (SECONDS + 5)
    assert shared.run(DOUBLE, "21", twice=True) == Run(RunStatus.DONE, "42")
    assert not Path("/tmp/populora-was-here").exists()


@with_monty
@pytest.mark.slow
def test_memory_of_the_processes_stays_bounded():
    with contextlib.closing(Sandbox(SECONDS)) as sandbox:
        most = 0
        for name in ["power tower", "doubling", "one list many times", "joined", "caught memory"]:
            sandbox.run(f"def f(x):\n    {HOSTILE[name][0]}", "1")
            assert sandbox.run(DOUBLE, "1").value == "2"
            assert sandbox.process_id is not None
            for pid in group(sandbox.process_id):
                status = Path(f"/proc/{pid}/status").read_text()
                peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
                most = max(most, 1024 * int(peak.split()[1]))
        assert most < 300 << 20, most


@with_monty
def test_nothing_outlives_close():
    sandbox = Sandbox(SECONDS)
    assert sandbox.process_id is None
    assert sandbox.run(DOUBLE, "'ab'").value == "'abab'"
    leader = sandbox.process_id
    assert leader is not None
    assert len(group(leader)) == 2
    sandbox.close()
    sandbox.close()
    assert group(leader) == {}
    assert sandbox.run(DOUBLE, "2").value == "4"
    sandbox.close()


@with_monty
def test_killed_processes_are_replaced():
    with contextlib.closing(Sandbox(SECONDS)) as sandbox:
        assert sandbox.run(DOUBLE, "1").value == "2"
        leader = sandbox.process_id
        assert leader is not None
        (interpreter,) = set(group(leader)) - {leader}
        os.kill(interpreter, signal.SIGKILL)
        assert sandbox.run(DOUBLE, "2").value == "4"
        leader = sandbox.process_id
        assert leader is not None
        os.killpg(leader, signal.SIGKILL)
        assert sandbox.run(DOUBLE, "3").value == "6"
        assert sandbox.process_id != leader


@with_monty
@pytest.mark.slow
def test_a_stopped_program_is_killed_and_replaced(monkeypatch):
    monkeypatch.setattr("populora_env.code.sandbox._GRACE", 0.5)
    with contextlib.closing(Sandbox(SECONDS)) as sandbox:
        assert sandbox.run(DOUBLE, "1").value == "2"
        leader = sandbox.process_id
        assert leader is not None
        os.kill(leader, signal.SIGSTOP)
        assert sandbox.run(DOUBLE, "2") == Run(RunStatus.EXHAUSTED, None, "it was stopped")
        assert sandbox.run(DOUBLE, "3").value == "6"
        assert sandbox.process_id != leader


@with_monty
def test_forks_and_copies_have_programs_of_their_own(shared):
    assert shared.run(DOUBLE, "1").value == "2"
    leader = shared.process_id
    child = os.fork()
    if child == 0:
        code = 1
        try:
            apart = shared.run(DOUBLE, "5").value == "10" and shared.process_id != leader
            shared.close()
            code = 0 if apart else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert shared.run(DOUBLE, "2").value == "4"
    assert shared.process_id == leader
    for other in (copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):
        assert other.process_id is None
        assert other.run(DOUBLE, "3").value == "6"
        other.close()


@with_monty
@pytest.mark.slow
def test_nothing_outlives_a_caller_that_is_killed():
    code = (
        "from populora_env.code.sandbox import Sandbox\ns = Sandbox(1.0)\n"
        f"s.run({DOUBLE!r}, '1')\nprint(s.process_id, flush=True)\n"
        "s.run('def f(x):\\n    while True: pass', '1', twice=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as caller:
        assert caller.stdout is not None
        leader = int(caller.stdout.readline())
        caller.kill()
    limit = time.monotonic() + 10
    while group(leader) and time.monotonic() < limit:
        time.sleep(0.1)
    assert group(leader) == {}


@with_monty
def test_results_are_plain_and_bounded(shared):
    for body, value in [
        ("return {x, 3, 2}", "{1, 2, 3}"),
        ("return {'b': x, 'a': (x,)}", "{'a': (1,), 'b': 1}"),
        ("return None", "None"),
        ("print(x)\n    return True", "True"),
        ("return x / 4", "0.25"),
        ("return '\u00e9\"\\n'", "'\u00e9\"\\n'"),
    ]:
        assert shared.run(f"def f(x):\n    {body}", "1", twice=True) == Run(RunStatus.DONE, value)
    for body in [
        f"return 'a' * {LIMIT}",
        "return b'a'",
        "return 10**5000",
        "return [f]",
        "return 1j",
    ]:
        run = shared.run(f"def f(x):\n    {body}", "1")
        assert run.status in (RunStatus.NOT_PLAIN, RunStatus.RAISED), (body, run)
    for source in ["", "x = (", "def g(x): pass", "\x00", "\ud800", "'''"]:
        assert shared.run(source, "1").value is None


def test_without_the_extra_one_line_names_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for needs in (check_installed, lambda: Sandbox().run(DOUBLE, "1")):
        with pytest.raises(SandboxError, match=r"^[^\n]*pip install 'populora-env\[code\]'$"):
            needs()


def test_limits_are_checked():
    for arguments in [{"seconds": 0}, {"memory": 0}, {"seconds": float("inf")}]:
        with pytest.raises(ValueError, match=r"seconds|memory"):
            Sandbox(**arguments)


@with_monty
def test_nothing_outlives_a_sandbox_that_is_dropped():
    sandbox = Sandbox(SECONDS)
    assert sandbox.run(DOUBLE, "2").value == "4"
    leader = sandbox.process_id
    assert leader is not None
    del sandbox
    gc.collect()
    assert group(leader) == {}
