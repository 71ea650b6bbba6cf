r"""Named extraction rules, ours and those of lm-evaluation-harness, to compare scores with others.

The same replies score differently under different rules, so a benchmark says which it used:

=================  ===============================================================================
``default``        our rules, strict ones first, then lenient ones (`answers.read_answer`)
``strict``         our strict rules alone
``gsm8k-strict``   the filter ``strict-match`` of the harness's task ``gsm8k``
``gsm8k-flexible`` the filter ``flexible-extract`` of the same task
=================  ===============================================================================

The last two follow lm-eval 0.4.13 (``tasks/gsm8k/gsm8k.yaml``, ``filters/extraction.py``,
``api/metrics.py``): a regular expression finds the first ``#### number`` or the last thing made of
digits, and its text must equal the known answer's after dropping commas, dollar signs, everything
up to ``#### `` and a final period, ignoring case. So ``18.0`` is not ``18`` there. What the harness
does before that is not covered: it stops a model at ``Question:``, ``</s>`` and ``<|im_end|>``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from populora_env.grading import Grader
from populora_env.reading.answers import read_answer
from populora_env.reading.said import last_match
from populora_env.records import Problem, ReplyStatus

# In the order in which the harness applies them.
_IGNORED = (r",", r"\$", r"(?s).*#### ", r"\.$")
_STRICT_MATCH = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE_EXTRACT = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


@dataclass(frozen=True, slots=True)
class Extraction:
    """One named way to find the final answer of a reply and to compare it.

    Attributes:
        name: Its key in `EXTRACTIONS`.
        extract: The final answer that a reply gives to a problem, or None if none is found.
        correct: Whether a reply to a problem with a known answer is right by this rule.
    """

    name: str
    extract: Callable[[str, Problem], str | None]
    correct: Callable[[str, Problem, Grader], bool]


def _default(reply: str, problem: Problem) -> str | None:
    return read_answer(reply, problem.answer_kind).answer


def _strict(reply: str, problem: Problem) -> str | None:
    reading = read_answer(reply, problem.answer_kind)
    return reading.answer if reading.status is ReplyStatus.OK else None


def _default_correct(reply: str, problem: Problem, grader: Grader) -> bool:
    return grader.grade(problem, reply).correct is True


def _strict_correct(reply: str, problem: Problem, grader: Grader) -> bool:
    return grader.grade(problem, reply).strict is True


def _strict_match(reply: str, _problem: Problem) -> str | None:
    match = _STRICT_MATCH.search(reply)
    return None if match is None else match[1].strip()


def _flexible_extract(reply: str, _problem: Problem) -> str | None:
    match = last_match(_FLEXIBLE_EXTRACT, reply)
    return None if match is None else match[0].strip()


def _exact_match(
    extract: Callable[[str, Problem], str | None],
) -> Callable[[str, Problem, Grader], bool]:
    def correct(reply: str, problem: Problem, _grader: Grader) -> bool:
        found = extract(reply, problem)
        return found is not None and _comparable(found) == _comparable(problem.answer or "")

    return correct


def _comparable(text: str) -> str:
    for pattern in _IGNORED:
        text = re.sub(pattern, "", text)
    return text.lower()


EXTRACTIONS: Mapping[str, Extraction] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Extraction("default", _default, _default_correct),
            Extraction("strict", _strict, _strict_correct),
            Extraction("gsm8k-strict", _strict_match, _exact_match(_strict_match)),
            Extraction("gsm8k-flexible", _flexible_extract, _exact_match(_flexible_extract)),
        )
    }
)
