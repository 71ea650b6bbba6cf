"""The program that a worker process runs: mathematical equivalence by math-verify.

Started as a script by `worker.MathWorker`, so it imports nothing of this project. It reads one
JSON object a line from standard input, ``{"gold": ..., "answer": ..., "seconds": ...}``, and
writes one, ``{"equal": true}``. Its memory is limited, and an alarm with no handler ends it soon
after the caller's own limit, so that it cannot outlive a caller that was killed. Stopping a check
in time is the caller's task: an alarm alone does not interrupt every computation.
"""

import json
import os
import signal
import sys


def _limit_memory(extra_bytes: int) -> None:
    """Limit the address space to what is in use now and ``extra_bytes`` more."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as statm:
            in_use = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + extra_bytes, in_use + extra_bytes))
    except (ImportError, OSError, ValueError):
        return  # no such limits on this system: the time limit still holds


def main() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    sys.stdout = sys.stderr  # what a library prints is not a reply

    from math_verify import parse, verify

    def equal(gold: str, answer: str) -> bool:
        # parsing_timeout and timeout_seconds off: both raise alarms and exceptions of their own.
        left = parse(f"${gold}$", parsing_timeout=None)  # type: ignore[arg-type]
        right = parse(f"${answer}$", parsing_timeout=None)  # type: ignore[arg-type]
        return bool(left and right and verify(left, right, timeout_seconds=None))

    equal("\\frac{1}{2}", "0.5")  # loads what is loaded lazily, before the first timed request
    _limit_memory(int(sys.argv[1]))
    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        request = json.loads(line)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 2 * request["seconds"] + 5)
        try:
            reply = {"equal": equal(request["gold"], request["answer"])}
        except MemoryError:
            reply = {"exhausted": "memory"}
        except Exception as error:
            reply = {"equal": False, "error": f"{type(error).__name__}"}
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
