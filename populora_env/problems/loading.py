"""From a spec to a source.

One function for all specs: what is procedural, a benchmark or a file is decided here, how each is
read in a module of its own.
"""

import os
from collections.abc import Sequence

from populora_env.problems.benchmarks import BENCHMARKS, load_benchmark
from populora_env.problems.files.columns import (
    place_of,
    problems_of_file,
    prompt_key,
    warn_of_case,
)
from populora_env.problems.files.reading import SUFFIXES
from populora_env.problems.sources.base import (
    ProblemSource,
    ProblemSpecError,
    SequenceSource,
    Split,
    check_disjoint,
    split_of,
)
from populora_env.problems.sources.own import SOURCES, own_problems
from populora_env.problems.sources.spec import (
    CURRICULUM,
    SELF_PLAY,
    SourceSpec,
    parse_sources,
    parse_tasks,
)
from populora_env.records import Problem


def load_problems(
    spec: str, *, split: str | None = None, seed: int = 0, limit: int | None = None
) -> ProblemSource:
    """Return the source of problems that a spec names.

    Args:
        spec: One of

            - ``procedural:NAME[(parameter=value, ...)][+NAME...]``, where NAME is a generator of
              reasoning-gym, and ``2*NAME`` draws it twice as often;
            - ``gsm8k``, ``math`` or ``math500``; ``math(subject=[algebra,geometry],level=5)``
              keeps a part of it, ``gsm8k(path='FOLDER')`` reads a local copy;
            - a path ending in .jsonl, .json, .parquet or .csv; options such as
              ``(prompt=question,answer=gold,kind=math,id=key)`` say what its columns mean;
            - ``self-play:KIND[+KIND...]``, problems that agents write; see `proposals.task`;
            - ``curriculum:NAME(GENERATOR[+GENERATOR...], option=value, ...)``, alone: procedural
              problems at levels that follow what is solved, or at all levels alike, where NAME is
              ``uniform``, ``window`` or ``learnability``;
            - the name of a kind of your own, as in `SOURCES`, with its options;
            - several of these joined by ``+``: one after the other, or, if one of them is
              procedural or has a weight as in ``2*gsm8k``, drawn by weight. A problem that
              several of them hold counts once; one with different answers is refused.
        split: ``"train"`` or ``"test"``, None for all. GSM8K, MATH and MATH-500 (test only) have
            official splits; of everything else half of all problems, by content hash, are test,
            so the splits are disjoint whatever the seeds.
        seed: Which items a virtual source holds; nothing else is changed by it.
        limit: Largest number of items, the first ones; None for all there are.

    Raises:
        ProblemSpecError: If the spec cannot be met, or training problems would be among the test
            problems; the message says why in one line.
        ValueError: If another argument is out of range.
    """
    if not isinstance(spec, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ProblemSpecError(f"spec must be a string, got {type(spec).__name__}")
    if split is not None and split not in set(Split):
        raise ValueError(f"split must be 'train', 'test' or None, got {split!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be None or at least 1, got {limit}")
    part = None if split is None else Split(split)
    if spec.strip().startswith(SELF_PLAY):
        from populora_env.proposals.source import SelfPlaySource

        tasks = parse_tasks(spec.strip().removeprefix(SELF_PLAY))
        return SelfPlaySource(tasks, split=part, seed=seed, limit=limit)
    if spec.strip().startswith(CURRICULUM):
        from populora_env.problems.drawing.curriculum import load_curriculum

        return load_curriculum(spec, split=part, seed=seed, limit=limit)
    sources = _read(spec)
    _refuse_contradictions([source for source in sources if source.name])
    if all(source.name and source.weight is None for source in sources):
        problems = _joined(sources, part)
        return SequenceSource(problems[:limit], " ".join(spec.split()))
    return _drawn(sources, part, " ".join(spec.split()), seed, limit)


def _read(spec: str) -> list[SourceSpec]:
    """Return the sources of a spec; an existing file's name is read as nothing else."""
    path = spec.strip()
    if path.lower().endswith(SUFFIXES) and os.path.isfile(os.path.expanduser(path)):
        return [SourceSpec(path, {})]
    return parse_sources(spec, (*BENCHMARKS, *SOURCES), SUFFIXES)


def _joined(sources: Sequence[SourceSpec], split: Split | None) -> list[Problem]:
    """Return the problems of finite sources, one after the other, each once."""
    problems = [problem for source in sources for problem in _finite(source, split)]
    if len(sources) > 1 and split is Split.TRAIN:
        _refuse_overlap(sources, problems)
    return list({problem.id: problem for problem in reversed(problems)}.values())[::-1]


def _drawn(
    sources: Sequence[SourceSpec], split: Split | None, spec: str, seed: int, limit: int | None
) -> ProblemSource:
    """Return sources that are drawn by weight."""
    from populora_env.problems.drawing.procedural import ProceduralSource
    from populora_env.problems.mixture import MixtureSource

    if len(sources) == 1 and sources[0].generators:
        return ProceduralSource(sources[0].generators, split=split, seed=seed, limit=limit)
    finite = [source for source in sources if source.name]
    if split is Split.TRAIN and len(finite) > 1:
        _joined(finite, split)
    parts = [
        SequenceSource(_finite(source, split), source.name)
        if source.name
        else ProceduralSource(source.generators, split=split, seed=seed)
        for source in sources
    ]
    weights = [1.0 if source.weight is None else source.weight for source in sources]
    return MixtureSource(parts, weights, spec=spec, seed=seed, limit=limit)


def _finite(source: SourceSpec, split: Split | None) -> list[Problem]:
    """Return the problems of a benchmark or a file that are in a split."""
    if source.name.lower() in BENCHMARKS:
        return load_benchmark(source.name.lower(), source.options, split)
    own = source.name.lower() in SOURCES
    read = own_problems if own else problems_of_file
    problems = read(source.name.lower() if own else source.name, source.options)
    kept = [problem for problem in problems if split is None or split_of(problem) is split]
    if not kept:
        raise ProblemSpecError(
            f"{source.name}: none of its {len(problems)} problems is in split {split}, which half "
            "of all are by content hash: add more, or load it with split=None"
        )
    return kept


def _refuse_overlap(sources: Sequence[SourceSpec], train: Sequence[Problem]) -> None:
    """Refuse training problems that another of the sources tests on."""
    held_out = [problem for source in sources for problem in _finite(source, Split.TEST)]
    try:
        check_disjoint(held_out, train)
    except ValueError:
        ids = {problem.id for problem in held_out}
        shared = [problem for problem in train if problem.id in ids]
        raise ProblemSpecError(
            f"{len(shared)} training problems are in the test split of another source, such as "
            f"{place_of(shared[0])} ({shared[0].prompt[:40]!r}): remove them from the "
            "file, or leave one source out"
        ) from None


def _refuse_contradictions(sources: Sequence[SourceSpec]) -> None:
    """Refuse a question that a file has in another form, or with another answer, than another.

    The two would be two problems, which may lie in both splits. Benchmarks among themselves are
    taken as they are. Where only the case of letters differs, that is a warning.
    """
    if len(sources) < 2 or all(source.name.lower() in BENCHMARKS for source in sources):
        return
    first: dict[str, tuple[Problem, SourceSpec]] = {}
    in_any_case: dict[str, tuple[Problem, SourceSpec]] = {}
    doubtful: list[tuple[Problem, Problem]] = []
    for source in sources:
        for problem in _finite(source, None):
            key = prompt_key(problem.prompt)
            alike, other = in_any_case.setdefault(key.casefold(), (problem, source))
            if other is not source and alike.answer != problem.answer:
                doubtful.append((alike, problem))
            before, other = first.setdefault(key, (problem, source))
            names = {source.name.lower(), other.name.lower()}
            if before.id == problem.id or names <= BENCHMARKS.keys():
                continue
            if before.answer != problem.answer:
                how = f"with the answer {problem.answer!r:.60} instead of {before.answer!r:.60}"
            elif before.answer_kind != problem.answer_kind:
                how = f"as {problem.answer_kind} instead of {before.answer_kind}, see (kind=...)"
            else:
                how = "but for its white space or Unicode form"
            raise ProblemSpecError(
                f"{place_of(problem)}: question {problem.prompt!r:.60} is there again "
                f"{how}, first at {place_of(before)}: remove one"
            )
    warn_of_case(doubtful)


def as_source(problems: str | ProblemSource | Sequence[Problem], *, seed: int = 0) -> ProblemSource:
    """Return a source from a spec, a source, or a plain sequence of problems.

    Args:
        problems: A spec is loaded with ``seed``; a source is returned as it is.
        seed: Used for a spec only.

    Raises:
        ProblemSpecError: If a spec cannot be met.
        TypeError: If ``problems`` is something else.
    """
    if isinstance(problems, ProblemSource):
        return problems
    if isinstance(problems, str):
        return load_problems(problems, seed=seed)
    if not isinstance(problems, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            "problems must be a spec, a ProblemSource or a sequence of Problem, "
            f"got {type(problems).__name__}"
        )
    return SequenceSource(problems)
