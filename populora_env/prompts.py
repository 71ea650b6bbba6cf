"""The texts that agents are shown.

One constant for each phase, filled in a single pass: what is filled in is never looked at again,
so an attempt that contains a placeholder such as ``{problem}`` stays what it is. Whatever agents
wrote is quoted line by line behind ``> ``, so no attempt can pass for a part of the prompt. Asked
to *reply with* a letter, small models solve the problem again; asked to *begin* with it, they
judge. How replies to these texts are read is in `reading`; chat templates belong
to whoever runs the model.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from populora_env.records import AnswerKind, Comparison, Phase, Problem
from populora_env.storage import storable

SOLVE_NUMBER = "{problem}\nAnswer with the final number."
SOLVE_OTHER = "{problem}\nAnswer with the final answer."

SCORE = """Problem:
{problem}

An attempt at it:
{attempt}

How good is the attempt, from 0 (wrong) to 10 (right)? Begin your reply with the score."""

COMPARE = """Problem:
{problem}

Attempt A:
{attempt_a}

Attempt B:
{attempt_b}

Which attempt is better, A or B? Begin your reply with A, B or tie."""

CRITIQUE = """Problem:
{problem}

An attempt at it:
{attempt}

Check the attempt. Say what is wrong with it, if anything is, and end with "Verdict: correct" or \
"Verdict: incorrect"."""

REVISE = """{problem}

Your attempt:
{attempt}

What others say about it:
{critiques}

{request}"""

# How long a reply to each may be, in tokens, for whoever counts them and is told nothing else.
REPLY_TOKENS: Mapping[Phase, int] = MappingProxyType(
    {
        Phase.PROPOSE: 256,
        Phase.SOLVE: 256,
        Phase.SCORE: 16,
        Phase.COMPARE: 16,
        Phase.CRITIQUE: 128,
        Phase.REVISE: 256,
    }
)
ATTEMPT_LIMIT = 4_000  # characters of an attempt or a critique that are shown
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


def quote(text: str, limit: int = ATTEMPT_LIMIT) -> str:
    """Return what an agent wrote, clipped to ``limit`` characters, each line behind ``> ``."""
    return "\n".join(f"> {line}" for line in clip(storable(text), limit).splitlines()) or "> "


def solve_prompt(problem: Problem) -> str:
    """Return what an agent reads when it is to solve the problem."""
    template = SOLVE_NUMBER if problem.answer_kind is AnswerKind.NUMBER else SOLVE_OTHER
    return fill(template, {"problem": storable(problem.prompt)})


def score_prompt(problem: Problem, attempt: str) -> str:
    """Return what an agent reads when it is to score an attempt; the author is not named."""
    return fill(SCORE, {"problem": storable(problem.prompt), "attempt": quote(attempt)})


def compare_prompt(comparison: Comparison, limit: int = ATTEMPT_LIMIT) -> str:
    """Return what an agent reads when it is to compare two attempts.

    Neither author is named. Each attempt is clipped to ``limit`` characters.
    """
    return fill(
        COMPARE,
        {
            "problem": storable(comparison.problem.prompt),
            "attempt_a": quote(comparison.first, limit),
            "attempt_b": quote(comparison.second, limit),
        },
    )


def critique_prompt(problem: Problem, attempt: str) -> str:
    """Return what an agent reads when it is to criticise an attempt; the author is not named."""
    return fill(CRITIQUE, {"problem": storable(problem.prompt), "attempt": quote(attempt)})


def revise_prompt(problem: Problem, attempt: str, critiques: Sequence[str]) -> str:
    """Return what an agent reads when it may answer again; the critics are not named."""
    kind = "number" if problem.answer_kind is AnswerKind.NUMBER else "answer"
    return fill(
        REVISE,
        {
            "problem": storable(problem.prompt),
            "attempt": quote(attempt),
            "critiques": "\n\n".join(map(quote, critiques)) or "Nothing.",
            "request": f"Answer again, with the final {kind}.",
        },
    )
