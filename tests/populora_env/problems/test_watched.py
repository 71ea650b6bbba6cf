"""Procedural parameters that would take for ever, or all the memory."""

import os
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("reasoning_gym")

from populora_env.problems import ProblemSpecError, load_problems
from populora_env.problems.drawing import watched
from populora_env.problems.drawing.generating import draw


@pytest.fixture(scope="module", autouse=True)
def _started():
    load_problems("procedural:tower_of_hanoi(max_disks=4)")


@pytest.mark.parametrize(
    "spec",
    [
        "chain_sum(max_terms=1000000000)",
        "chain_sum(max_digits=100000)",
        "chain_sum(max_terms=1e300)",
        "count_primes(max_n=1000000000000)",
        "basic_arithmetic(max_terms=99999)",
        "word_sorting(max_words=-99999)",
        "tower_of_hanoi(min_disks=40,max_disks=41)",
        *(
            pytest.param(spec, marks=pytest.mark.slow)
            for spec in (
                "maze(min_grid_size=5000,max_grid_size=9999)",
                "binary_matrix(min_n=10000,max_n=10000)",
                "polynomial_multiplication(max_terms=4000,max_polynomials=400)",
            )
        ),
    ],
)
def test_items_without_end_are_refused_in_time(spec):
    start = time.monotonic()
    with pytest.raises(ProblemSpecError) as caught:
        load_problems(f"procedural:{spec}")
    # The program may have to start again after the one before was killed.
    assert time.monotonic() - start < 5 + 15
    said = str(caught.value)
    assert said.startswith(f"procedural:{spec.split('(')[0]}(")
    assert "must be at most" in said or "make its parameters smaller" in said
    assert "\n" not in said


@pytest.mark.slow
def test_items_without_end_take_little_memory():
    # In a process of its own, whose only children are those that draw items.
    code = """
import resource
from populora_env import load_problems
from populora_env.problems import ProblemSpecError
for spec in ("binary_matrix(min_n=10000,max_n=10000)", "maze(max_grid_size=9999)"):
    try:
        load_problems(f"procedural:{spec}")
    except ProblemSpecError:
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    taken = [int(line) for line in ran.stdout.split()]
    assert len(taken) == 2, ran.stderr
    assert max(taken) < 1.3 * 2**20  # KiB


@pytest.mark.usefixtures("shared_generators")  # `draw` sets them, as its program may
def test_a_watched_item_is_the_same_as_one_that_is_not():
    parameters = {"max_terms": 3, "max_digits": 150}
    assert not watched.is_cheap("chain_sum", parameters)
    assert watched.draw_watched("chain_sum", parameters, 7) == draw("chain_sum", parameters, 7)
    assert watched.is_cheap("chain_sum", {"max_terms": 3})
    assert not watched.is_cheap("gsm_symbolic", {"difficulty": 1.0})


@pytest.mark.slow
def test_a_process_killed_while_idle_is_replaced():
    parameters = {"max_disks": 4}
    before = watched.draw_watched("tower_of_hanoi", parameters, 1)
    program = watched._PROCESS._program
    program.kill()
    program.wait(9)
    assert watched.draw_watched("tower_of_hanoi", parameters, 1) == before


def test_threads_get_their_own_items():
    alone = [watched.draw_watched("gcd", {"max_value": 10**6}, seed) for seed in range(12)]
    got = {}

    def ask(seed):
        got[seed] = watched.draw_watched("gcd", {"max_value": 10**6}, seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [got[seed] for seed in range(12)] == alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_its_own():
    expected = watched.draw_watched("gcd", {"max_value": 10**6}, 3)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(watched.draw_watched("gcd", {"max_value": 10**6}, 3) != expected)
        finally:
            os._exit(code)
    assert os.waitpid(child, 0) == (child, 0)
    assert watched.draw_watched("gcd", {"max_value": 10**6}, 3) == expected


_UNORDERED = ("isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note",
              "word_ladder")  # fmt: skip


@pytest.mark.slow
def test_problems_are_the_same_in_every_process():
    specs = [f"procedural:{name}" for name in (*_UNORDERED, "word_ladder(max_word_length=4)")]
    code = (
        "from populora_env import load_problems\n"
        f"print(*[load_problems(spec, seed=1)[i].id for spec in {specs} for i in range(2)])"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    assert len(found.pop().split()) == 2 * len(specs)
