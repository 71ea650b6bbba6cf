r"""Named prompts for measuring accuracy, and where their worked examples come from.

A preset never changes: a better text gets a new name, so figures that name a preset stay
comparable. Examples are drawn from a training split when they are needed; none is stored here.
The field also knows hand-written examples (Wei et al., 2022); scores with those differ a little.

Not covered here: what the arena shows (`prompts`), chat templates, which belong to whoever runs
the model, and chats whose examples are turns of their own.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from populora_env.problems import ProblemSource, ProblemSpecError, load_problems
from populora_env.prompts import fill, solve_prompt
from populora_env.records import AnswerKind, Problem
from populora_env.storage import storable

SOLUTION = "solution"  # the entry of a problem's metadata that holds its worked solution
HARNESS_SEED = 1234  # with which lm-evaluation-harness draws examples unless told otherwise
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # a calculator's marks in GSM8K, as in <<48/2=24>>24


class PromptError(ProblemSpecError):
    """A preset that does not exist, does not fit a problem, or finds no examples."""


class Draw(StrEnum):
    """Which problems of the training split become examples."""

    FIRST = "first"  # the first ones, the same for every problem
    HARNESS = "harness"  # a fresh draw for each position, the one lm-evaluation-harness makes


@dataclass(frozen=True, slots=True)
class PromptPreset:
    r"""How problems are put to a model, and how its replies are read.

    Attributes:
        name: Name and version, such as ``gsm8k-8shot-v1``.
        about: One line for people.
        raw: Whether the prompt is a text to be completed as it is; else it is the user's turn of
            a chat. A raw prompt needs a policy that uses no chat template.
        kinds: Kinds of answers it can be used for.
        texts: Kind of answer to template; ``{problem}`` is the problem. Empty for the arena's own.
        shots: Number of worked examples before the problem.
        shots_from: Spec whose training split the examples are from.
        draw: Which examples.
        marks: Whether the examples keep GSM8K's calculator marks.
        stops: Texts at which a reply ends; see `cut`.
        max_new_tokens: Usual length limit of a reply.
        extractions: Names of the rules (`extraction.EXTRACTIONS`) to report, the main one first.
    """

    name: str
    about: str
    raw: bool = False
    kinds: frozenset[AnswerKind] = frozenset(AnswerKind)
    texts: tuple[tuple[AnswerKind, str], ...] = ()
    shots: int = 0
    shots_from: str = ""
    draw: Draw = Draw.FIRST
    marks: bool = True
    stops: tuple[str, ...] = ()
    max_new_tokens: int = 256
    extractions: tuple[str, ...] = ("default", "strict")

    def ask(self, problem: Problem) -> str:
        """Return the problem in this preset's words, without examples."""
        for kind, text in self.texts:
            if kind is problem.answer_kind:
                return fill(text, {"problem": storable(problem.prompt)})
        return solve_prompt(problem)

    def cut(self, reply: str) -> str:
        """Return the reply up to the first stop text.

        Generation knows no stop texts: it goes on to its end or limit, and the rest is cut off
        here. The result is the same, only later.
        """
        for stop in self.stops:
            reply = reply.partition(stop)[0]
        return reply

    def prompts(
        self, problems: Sequence[Problem], examples: ProblemSource | None = None
    ) -> list[str]:
        """Return the prompt for each problem.

        With `Draw.HARNESS`, the examples depend on a problem's position: give the problems in
        the order of their file, from its first.

        Args:
            problems: Of the kinds this preset is for.
            examples: Where examples come from; None for the training split of ``shots_from``.

        Raises:
            PromptError: If a problem is of another kind, or the examples cannot be had.
        """
        for problem in problems:
            if problem.answer_kind not in self.kinds:
                raise PromptError(
                    f"prompt {self.name!r} is for answers of kind {' or '.join(sorted(self.kinds))}"
                    f", but {problem.source or problem.id} has kind {problem.answer_kind}: use "
                    "arena-v1 or chat-v1"
                )
        asked = [self.ask(problem) for problem in problems]
        if not self.shots or not problems:
            return asked
        source = self._training_split() if examples is None else examples
        if len(source) <= self.shots:
            raise PromptError(
                f"prompt {self.name!r} needs more than {self.shots} worked examples, got "
                f"{len(source)} from {source.spec}"
            )
        drawn = self._draw(problems, source)
        return [
            "".join(f"{self._worked(shot)}\n\n" for shot in shots) + text
            for shots, text in zip(drawn, asked, strict=True)
        ]

    def _training_split(self) -> ProblemSource:
        try:
            return load_problems(self.shots_from, split="train")
        except (ProblemSpecError, OSError) as error:
            raise PromptError(
                f"prompt {self.name!r} takes its {self.shots} examples from the training split of "
                f"{self.shots_from}, which cannot be loaded ({error}); use chat-v1, which needs "
                "none"
            ) from error

    def _draw(self, problems: Sequence[Problem], source: ProblemSource) -> list[list[Problem]]:
        """Return the examples for each problem; a problem is never an example for itself."""
        if self.draw is Draw.FIRST:
            first = [source[i] for i in range(self.shots + 1)]
            return [[s for s in first if s.id != p.id][: self.shots] for p in problems]
        # The harness's own generator, so that the very same examples come out.
        rng = random.Random(HARNESS_SEED)
        drawn = [rng.sample(range(len(source)), self.shots) for _ in problems]
        return [_without(p, places, source) for p, places in zip(problems, drawn, strict=True)]

    def _worked(self, shot: Problem) -> str:
        solution = shot.metadata.get(SOLUTION)
        if not isinstance(solution, str) or shot.answer is None:
            raise PromptError(
                f"prompt {self.name!r}: example {shot.id} has no worked solution "
                f"(metadata[{SOLUTION!r}]), which it needs"
            )
        if shot.answer_kind is AnswerKind.NUMBER and "####" not in solution:
            solution = f"{solution}\n#### {shot.answer}"
        if not self.marks:
            solution = _CALCULATOR.sub("", solution)
        return f"{self.ask(shot)} {storable(solution)}"


def _without(problem: Problem, places: Sequence[int], source: ProblemSource) -> list[Problem]:
    """Return the examples at some places; the next free ones stand in for the problem itself."""
    shots = [source[place] for place in places]
    if all(shot.id != problem.id for shot in shots):
        return shots
    free = (
        source[at % len(source)]
        for at in range(places[0] + 1, places[0] + len(source))
        if at % len(source) not in places
    )
    others = (shot for shot in free if shot.id != problem.id)
    replaced = [next(others, None) if shot.id == problem.id else shot for shot in shots]
    return [shot for shot in replaced if shot is not None]


_NUMBER, _MATH = frozenset({AnswerKind.NUMBER}), frozenset({AnswerKind.MATH})
_STEPS = "{problem}\n\nSolve this step by step. "
_CHAT = (
    (AnswerKind.NUMBER, _STEPS + "End with a line that holds #### and the final number."),
    (AnswerKind.MATH, _STEPS + r"Put the final answer, and nothing else, in \boxed{}."),
    (AnswerKind.TEXT, _STEPS + 'End with a line "Answer: " and the final answer.'),
)
_GSM8K = ((AnswerKind.NUMBER, "Question: {problem}\nAnswer:"),)
_GSM8K_STOPS = ("Question:", "</s>", "<|im_end|>")
_GSM8K_RULES = ("gsm8k-flexible", "gsm8k-strict", "default", "strict")

PRESETS = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            PromptPreset("arena-v1", "what agents of the arena read when they solve a problem"),
            PromptPreset(
                "chat-v1",
                "step by step, without examples, as a chat",
                texts=_CHAT,
                max_new_tokens=512,
            ),
            PromptPreset(
                "gsm8k-8shot-v1",
                "a text with the first 8 training problems of GSM8K and their solutions",
                raw=True,
                kinds=_NUMBER,
                texts=_GSM8K,
                shots=8,
                shots_from="gsm8k",
                marks=False,
                stops=_GSM8K_STOPS,
                extractions=_GSM8K_RULES,
            ),
            PromptPreset(
                "gsm8k-5shot-v1",
                "the gsm8k task of lm-evaluation-harness: 5 training problems drawn per problem",
                raw=True,
                kinds=_NUMBER,
                texts=_GSM8K,
                shots=5,
                shots_from="gsm8k",
                draw=Draw.HARNESS,
                stops=_GSM8K_STOPS,
                extractions=_GSM8K_RULES,
            ),
            PromptPreset(
                "math-4shot-v1",
                "a text with the first 4 training problems of MATH and their solutions",
                raw=True,
                kinds=_MATH,
                texts=((AnswerKind.MATH, "Problem:\n{problem}\n\nSolution:"),),
                shots=4,
                shots_from="math",
                stops=("Problem:",),
                max_new_tokens=512,
            ),
        )
    }
)


def prompt_preset(name: str) -> PromptPreset:
    """Return a preset.

    Raises:
        PromptError: If there is none of that name.
    """
    if name not in PRESETS:
        raise PromptError(f"prompt: got {name!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
