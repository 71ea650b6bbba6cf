"""What ``populora bench`` measures: problems, their prompts, and which of them a run knows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolution.errors import UsageError
from populora_env.problems import ProblemSource, ProblemSpecError, load_problems
from populora_env.problems.benchmarks import BENCHMARKS
from populora_env.problems.drawing.procedural import VIRTUAL_LENGTH
from populora_env.problems.fewshot import PromptPreset, prompt_preset
from populora_env.problems.files.reading import SUFFIXES
from populora_env.problems.sources.base import EXHAUSTED_AFTER
from populora_env.problems.sources.spec import CURRICULUM, SELF_PLAY, parse_sources, parse_tasks
from populora_env.records import Problem

VIRTUAL_LIMIT = 128  # problems of a generator, which has no end, if no limit is given
# What a run may not have been trained on; the tasks it was trained on are left out.
ELSEWHERE = (
    "procedural:leg_counting",
    "procedural:gcd",
    "procedural:letter_counting",
    "procedural:simple_equations",
    "gsm8k",
    "math500",
)


@dataclass(frozen=True, slots=True)
class Task:
    """Problems of one spec.

    Attributes:
        spec: Where they come from.
        preset: How they are asked.
        outside: Whether a run was trained on nothing of the kind.
        optional: Whether it is left out where its problems cannot be loaded.
        own_file: Whether it is a user's own file that nobody measured was trained on, all of which
            is a test.
    """

    spec: str
    preset: PromptPreset
    outside: bool = False
    optional: bool = False
    own_file: bool = False


def split_specs(text: str) -> list[str]:
    """Split at the commas that are not inside parentheses.

    Raises:
        UsageError: If a part is empty or parentheses do not match.
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    parts = [part.strip() for part in parts]
    if depth or not all(parts):
        raise UsageError(
            f"tasks: got {text!r}, expected problem specs and commas, as in "
            "gsm8k,procedural:chain_sum(max_terms=2)"
        )
    return parts


def read_tasks(
    text: str,
    prompt: str,
    *,
    trained: str | None = None,
    forgetting: bool = False,
    known: Sequence[str] = (),
) -> list[Task]:
    """Return the tasks that a text names.

    Args:
        text: Specs separated by commas; ``SPEC@PROMPT`` has a prompt of its own.
        prompt: The other tasks' prompt preset.
        trained: Spec a run was trained on; None without a run.
        forgetting: Whether `ELSEWHERE` is measured as well, as far as the run knows it not.
        known: Specs that others who are measured were trained on.

    Raises:
        UsageError: If the text cannot be split, or names a spec twice.
        ProblemSpecError: If a prompt does not exist, or a spec has no known form.
    """
    tasks: dict[str, Task] = {}
    for part in split_specs(text):
        spec, at, named = part.rpartition("@")
        spec, named = (spec, named) if at else (part, prompt)
        if spec in tasks:
            raise UsageError(f"tasks: {spec} is there twice; expected different specs")
        outside = trained is not None and not _kinds(spec) & _kinds(trained)
        seen = {kind for each in (*known, trained or "") if each for kind in _kinds(each)}
        own_file = _is_file(spec) and not _kinds(spec) & seen
        tasks[spec] = Task(spec, prompt_preset(named), outside, own_file=own_file)
    if forgetting and trained is not None:
        for spec in ELSEWHERE:
            if spec not in tasks and not _kinds(spec) & _kinds(trained):
                # Few-shot prompts are made for one kind of answer; these tasks have several.
                general = prompt if prompt in ("arena-v1", "chat-v1") else "chat-v1"
                tasks[spec] = Task(spec, prompt_preset(general), outside=True, optional=True)
    return list(tasks.values())


def _kinds(spec: str) -> set[str]:
    """Return what a spec draws from: generators, data sets and files.

    Of self-play and curricula, the generators that it names; other tasks of self-play are none.
    """
    for prefix in (SELF_PLAY, CURRICULUM):
        if spec.strip().startswith(prefix):
            tasks = parse_tasks(spec.strip().removeprefix(prefix))
            return {f"procedural:{part.name}" for task in tasks for part in task.generators}
    kinds: set[str] = set()
    for source in parse_sources(spec, tuple(BENCHMARKS), SUFFIXES):
        kinds |= {f"procedural:{part.name}" for part in source.generators}
        if source.name:
            name = source.name.lower()
            if name not in BENCHMARKS:
                name = str(Path(source.name).expanduser().resolve())
            kinds.add("math" if name == "math500" else name)  # which is a part of it
    return kinds


def _is_file(spec: str) -> bool:
    """Return whether a spec names files alone."""
    if spec.strip().startswith((SELF_PLAY, CURRICULUM)):
        return False
    sources = parse_sources(spec, tuple(BENCHMARKS), SUFFIXES)
    return all(source.name and source.name.lower() not in BENCHMARKS for source in sources)


def load_tasks(
    tasks: Sequence[Task],
    *,
    split: str | None,
    seed: int,
    limit: int,
    left_out: Callable[[str], None],
) -> dict[str, list[Problem]]:
    """Return each task's distinct problems, in the order of their source.

    Args:
        tasks: What to load.
        split: Which part of the problems; None for all, "auto" for the test part, or all of a
            user's own file (`Task.own_file`).
        seed: Seed of generated problems.
        limit: Most problems of a task; 0 for all, or at most `VIRTUAL_LIMIT` of a generator.
        left_out: Told why an optional task is missing, and which part of a file is asked.

    Raises:
        ProblemSpecError: If a task that is not optional cannot be loaded.
    """
    loaded: dict[str, list[Problem]] = {}
    for task in tasks:
        try:
            usual = None if task.own_file else "test"
            part = usual if split == "auto" else split
            source = load_problems(task.spec, split=part, seed=seed)
            virtual = len(source) >= VIRTUAL_LENGTH
            found = _distinct(source, limit or (VIRTUAL_LIMIT if virtual else 0))
            loaded[task.spec] = found
            if _is_file(task.spec):
                left_out(f"{task.spec}: {_part_words(part, len(found), len(source))}")
        except ProblemSpecError as error:
            if not task.optional:
                raise
            left_out(f"left out: {task.spec} ({error})")
    return loaded


def _part_words(part: str | None, asked: int, there: int) -> str:
    """Return which part of a file is asked, in words."""
    whole = "the file" if part is None else f"its {part} part"
    other = (
        "--split test takes the part that training leaves out"
        if part is None
        else ("--split all asks the whole file")
    )
    if asked == there:
        return f"all {asked} problems of {whole} are asked; {other}"
    return f"{asked} of {there} problems of {whole} are asked; {other}"


def _distinct(source: ProblemSource, limit: int) -> list[Problem]:
    """Return the first distinct problems, all there are if that is fewer or the limit is 0."""
    if limit:
        try:
            return source.distinct(limit)
        except ProblemSpecError:
            pass  # a source of fewer: below, they are all taken
    found: dict[str, Problem] = {}
    repeats = 0
    for problem in source:
        repeats = repeats + 1 if problem.id in found else 0
        found.setdefault(problem.id, problem)
        if repeats == EXHAUSTED_AFTER:
            break
    return list(found.values())
