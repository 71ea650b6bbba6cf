"""The texts that agents are shown.

One constant for each phase, filled in a single pass: what is filled in is never looked at again,
so an attempt that contains a placeholder such as ``{problem}`` stays what it is. How replies to
these texts are read is in `replies`; chat templates belong to whoever runs the model.
"""

import re
from collections.abc import Mapping

from populora_env.records import AnswerKind, Comparison, Problem, storable

SOLVE_NUMBER = "{problem}\nAnswer with the final number."
SOLVE_OTHER = "{problem}\nAnswer with the final answer."

COMPARE = """Problem:
{problem}

Attempt A:
{attempt_a}

Attempt B:
{attempt_b}

Which attempt is better? Reply with A, B or tie."""

ATTEMPT_LIMIT = 4_000  # characters of an attempt shown to a judge
CLIPPED = "\n[...]\n"

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each ``{name}`` of the template by its value, in one pass.

    Args:
        template: One of the constants of this file, or a text like them.
        values: Name to text; the texts are inserted as they are.

    Raises:
        KeyError: If the template names a value that is missing.
    """
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def clip(text: str, limit: int = ATTEMPT_LIMIT) -> str:
    """Return a text of at most ``limit`` characters, cut in the middle.

    Both ends are kept, because attempts begin with their approach and end with their answer.

    Raises:
        ValueError: If ``limit`` leaves no room for the mark that replaces the middle.
    """
    if len(text) <= limit:
        return text
    kept = limit - len(CLIPPED)
    if kept < 2:
        raise ValueError(f"limit must be at least {len(CLIPPED) + 2} characters, got {limit}")
    head = kept // 2
    return text[:head] + CLIPPED + text[len(text) - (kept - head) :]


def solve_prompt(problem: Problem) -> str:
    """Return what an agent reads when it is to solve the problem."""
    template = SOLVE_NUMBER if problem.answer_kind is AnswerKind.NUMBER else SOLVE_OTHER
    return fill(template, {"problem": storable(problem.prompt)})


def compare_prompt(comparison: Comparison, limit: int = ATTEMPT_LIMIT) -> str:
    """Return what an agent reads when it is to compare two attempts.

    Neither author is named. Each attempt is clipped to ``limit`` characters.
    """
    return fill(
        COMPARE,
        {
            "problem": storable(comparison.problem.prompt),
            "attempt_a": clip(storable(comparison.first), limit),
            "attempt_b": clip(storable(comparison.second), limit),
        },
    )
