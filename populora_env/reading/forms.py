"""The forms of evaluation, in one table: what a judge is shown, and how its reply is read.

A new form is a `Phase`, a prompt in `prompts`, a reader in `judgements` and a row of `FORMS`. One
that judges single attempts ends in an `Assessment` with a value in [0, 1], one that judges pairs in
an `Evaluation` with a preference; whoever plays, pays, shows or counts forms asks their rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from populora_env.prompts import compare_prompt, critique_prompt, score_prompt
from populora_env.reading.judgements import (
    JudgementReading,
    read_preference,
    read_score,
    read_verdict,
)
from populora_env.records import Comparison, Phase, Problem


@dataclass(frozen=True, slots=True)
class Form:
    """How one form of evaluation is asked, read and shown.

    Attributes:
        prompt: Makes the prompt of a problem and the texts of the attempts to be judged.
        read: Reads a reply. Its value is a number or truth in [0, 1], or a `Preference` of pairs.
        show: Writes a value that was read, in a word.
        examples: Replies that can be read, one of each kind; guessing peers draw among them.
        pairs: Whether two attempts are judged at once, in both orders, a round for each.
        written: Whether the reply is a text for the author, who may answer again: longer, shown
            whole, and paid for what it improves.
        verdict: Whether the value says right or wrong, and nothing between.
    """

    prompt: Callable[[Problem, Sequence[str]], str]
    read: Callable[[str], JudgementReading[Any]]
    show: Callable[[Any], str]
    examples: tuple[str, ...]
    pairs: bool = False
    written: bool = False
    verdict: bool = False

    @property
    def attempts(self) -> int:
        """Number of attempts in one task."""
        return 2 if self.pairs else 1

    @property
    def orders(self) -> int:
        """Number of rounds that one task takes: a pair is shown in both orders."""
        return self.attempts


# In the order of play.
FORMS: Mapping[Phase, Form] = MappingProxyType(
    {
        Phase.SCORE: Form(
            prompt=lambda problem, texts: score_prompt(problem, texts[0]),
            read=read_score,
            show=lambda value: f"{value:.2g}",
            examples=tuple(map(str, range(11))),
        ),
        Phase.COMPARE: Form(
            prompt=lambda problem, texts: compare_prompt(Comparison(problem, texts[0], texts[1])),
            read=read_preference,
            show=str,
            examples=("A", "B", "tie"),
            pairs=True,
        ),
        Phase.CRITIQUE: Form(
            prompt=lambda problem, texts: critique_prompt(problem, texts[0]),
            read=read_verdict,
            show=lambda value: "correct" if value else "incorrect",
            examples=("Verdict: correct", "Verdict: incorrect"),
            written=True,
            verdict=True,
        ),
    }
)
