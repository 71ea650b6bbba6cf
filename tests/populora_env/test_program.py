"""A script in a process of its own: asked, late, killed, dropped, forked."""

import gc
import os
import signal
import time

import pytest

from populora_env.program import Program

ECHO = """
import sys
for line in sys.stdin:
    print(line.strip()[::-1], flush=True)
"""
# Starts one of its own, says its number, and then answers nothing.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(text)
    return path


def runs(pid):
    """Whether a process is there and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ends(pid):
    limit = time.monotonic() + 10
    while runs(pid) and time.monotonic() < limit:
        time.sleep(0.01)
    return not runs(pid)


def test_it_answers_line_by_line(tmp_path):
    program = Program(script(tmp_path, ECHO))
    assert program.ask(b"abc", 30) == (b"cba", False)
    assert program.ask(b"x" * 300_000, 30) == (b"x" * 300_000, False)
    assert program.status is None
    program.close_input()
    assert program.wait(10) == 0
    assert program.ask(None, 10) == (None, False)
    program.end()
    program.end()


def test_the_folder_of_the_script_is_no_import_path(tmp_path):
    (tmp_path / "queue.py").write_text("raise SystemExit(3)")
    program = Program(script(tmp_path, "import queue\nprint(queue.__name__)"))
    assert program.ask(None, 30) == (b"queue", False)
    program.end()


def test_its_environment_is_what_is_given(tmp_path):
    program = Program(
        script(tmp_path, "import os\nprint(sorted(os.environ))"), environment={"ONLY": "1"}
    )
    said, _ = program.ask(None, 30)
    assert b"'ONLY'" in said
    assert b"HOME" not in said
    program.end()


@forks
def test_one_that_takes_too_long_is_killed_with_what_it_started(tmp_path):
    program = Program(script(tmp_path, PARENT))
    child = int(program.ask(None, 30)[0])
    assert runs(child)
    assert program.ask(b"never", 0.2) == (None, True)
    assert program.wait(10) == -signal.SIGKILL
    assert ends(child)
    program.end()


@forks
def test_what_it_started_does_not_outlive_it(tmp_path):
    program = Program(script(tmp_path, PARENT))
    child = int(program.ask(None, 30)[0])
    os.kill(program.pid, signal.SIGKILL)
    assert program.wait(10) == -signal.SIGKILL
    assert ends(child)
    with pytest.raises(OSError, match=r"."):
        program.send(b"too late")
    program.end()


@forks
def test_a_number_that_is_another_programs_by_now_is_not_killed(tmp_path, monkeypatch):
    program = Program(script(tmp_path, "pass"))
    assert program.wait(10) == 0
    monkeypatch.setattr(os, "killpg", lambda *args: pytest.fail("killed"))
    program.kill()
    program.end()


@forks
def test_one_that_nobody_holds_any_more_ends(tmp_path):
    program = Program(script(tmp_path, PARENT))
    child, pid = int(program.ask(None, 30)[0]), program.pid
    del program
    gc.collect()
    assert ends(pid)
    assert ends(child)


@forks
def test_a_fork_leaves_it_to_its_parent(tmp_path):
    program = Program(script(tmp_path, ECHO))
    assert program.ask(b"ab", 30) == (b"ba", False)
    child = os.fork()
    if child == 0:
        known = program.is_ours
        program.leave()
        del program
        os._exit(1 if known else 0)
    assert os.waitpid(child, 0)[1] == 0
    assert program.is_ours
    assert program.ask(b"cd", 30) == (b"dc", False)
    program.end()
