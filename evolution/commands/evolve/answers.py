"""Answers to look at: the base's before a run, and the base's beside the champion's after it."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agents.measuring.evaluate import AgentScore, evaluate
from agents.population import BASE, LoraPopulation
from evolution.commands.usage import one_line
from populora_env.episodes.rendering import visible
from populora_env.grading import Grader
from populora_env.problems import ProblemSource, ProblemSpecError
from populora_env.proposals.source import SelfPlaySource
from populora_env.records import Grade, Problem

SHOWN = 3
_CUT = 200  # characters of a prompt or a reply


def show_first_answers(
    population: LoraPopulation, train: ProblemSource, tokens: int, grader: Grader, console: Console
) -> None:
    """Let the bare base answer a few training problems, and show what it says.

    Nothing is shown in self-play, where nobody has written a problem yet, nor of problems without
    a known answer.

    Args:
        population: Whose base answers, greedily; it remembers nothing of it.
        train: Problems of the run.
        tokens: Length limit of a reply.
        grader: Says what is right.
        console: Where to.
    """
    if isinstance(train, SelfPlaySource):
        return
    try:
        problems = train.distinct(SHOWN)
    except ProblemSpecError:  # fewer than that
        return
    if any(problem.answer is None for problem in problems):
        return
    with console.status("the base answers its first problems"):
        score = evaluate(
            population.greedy(), problems, agents=(BASE,), grader=grader, max_new_tokens=tokens
        ).scores[BASE]
    population.forget()
    console.print(_table("What the base answers before the run", problems, {"base": score}))


def show_side_by_side(
    problems: Sequence[Problem], base: AgentScore, champion: AgentScore, console: Console
) -> None:
    """Show the first held-out problems with both answers, as they were measured."""
    title = "The first held-out problems"
    console.print(_table(title, problems[:SHOWN], {"base": base, "champion": champion}))


def _table(title: str, problems: Sequence[Problem], scores: dict[str, AgentScore]) -> Table:
    table = Table(title=title, show_lines=True)
    table.add_column("problem", overflow="fold")
    table.add_column("answer", justify="right", overflow="fold")
    for name in scores:
        table.add_column(name, overflow="fold")
    for i, problem in enumerate(problems):
        cells = [_graded(score.replies[i], score.grades[i]) for score in scores.values()]
        table.add_row(_cut(problem.prompt), _cut(str(problem.answer)), *cells)
    return table


def _graded(reply: str, grade: Grade) -> Text:
    word, style = ("right", "green") if grade.correct else ("wrong", "red")
    return Text.assemble((f"{word}: ", style), visible(_cut(reply)))


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _CUT else f"{line[: _CUT - 1]}…"
