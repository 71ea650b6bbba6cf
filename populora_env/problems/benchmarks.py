r"""What GSM8K, MATH and MATH-500 are: where they lie, what their columns mean.

A local copy comes first: the folder given as ``path=``, then ``$POPULORA_DATA``. Failing that the
hub is asked, at a pinned revision. All three keep their official splits; MATH-500 is a part of
MATH's test split, so it can be tested on but not trained on.

Sources: Cobbe et al. 2021 (GSM8K), Hendrycks et al. 2021 (MATH), Lightman et al. 2023 (MATH-500).
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from populora_env.problems.files.columns import (
    HASHES,
    after_hashes,
    checked_answer,
    last_boxed,
    refuse_repeated,
)
from populora_env.problems.files.hub import hub_rows
from populora_env.problems.files.reading import SUFFIXES, Row, described, read_rows
from populora_env.problems.sources.base import ProblemSpecError, Split, check_disjoint
from populora_env.records import AnswerKind, Problem
from populora_env.settings import did_you_mean
from populora_env.storage import plain

DATA_VARIABLE = "POPULORA_DATA"
SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
LEVELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published set of problems.

    Attributes:
        name: As in a spec.
        data_set: Its name on the hub.
        revision: The commit of it that is loaded.
        configs: Parts it has on the hub, each a table of its own; None is the only one.
        splits: Split to the stem of its local file's name.
        filters: Options that keep a part of it.
        read: Turns a row and its split into a problem.
        curated: Whether no problem is published twice. Where one may be, the first stays, and
            one that is in the test split is left out of the training split.
    """

    name: str
    data_set: str
    revision: str
    configs: tuple[str | None, ...]
    splits: Mapping[Split, str]
    filters: tuple[str, ...]
    read: Callable[[Row, Split], Problem]
    curated: bool = True

    @property
    def by_subject(self) -> bool:
        """Whether its parts are the subjects, which may lie in files of their own."""
        return len(self.configs) > 1


def load_benchmark(name: str, options: Mapping[str, Any], split: Split | None) -> list[Problem]:
    """Return the problems of a benchmark.

    GSM8K and MATH-500 come in their published order; MATH by content hash, so that its first
    problems are a fair sample of all subjects and levels.

    Args:
        name: One of `BENCHMARKS`.
        options: ``path``: a folder to look in, instead of ``$POPULORA_DATA``; for MATH and
            MATH-500 ``subject`` and ``level``: what to keep, one value or several.
        split: An official split, or None for all there are.

    Raises:
        ProblemSpecError: If the split does not exist, the data is nowhere to be found or broken,
            nothing is left, or a training problem is in the test split as well.
    """
    benchmark = BENCHMARKS[name]
    wanted = _filters(benchmark, options)
    folder = _folder(benchmark, options)
    if split is not None and split not in benchmark.splits:
        raise ProblemSpecError(
            f"{name} is a test set and has no {split} split: train on something else, such as "
            "gsm8k or math (whose test split holds math500), and test on math500"
        )
    tables = _Tables(benchmark, folder, "path" in options, wanted.get("subject", SUBJECTS))
    found = {part: tables.problems(part) for part in ([split] if split else benchmark.splits)}
    if Split.TRAIN in found and Split.TEST in benchmark.splits:
        test = found.get(Split.TEST) or tables.beside_train()
        found[Split.TRAIN] = _without(benchmark, found[Split.TRAIN], test)
    problems = [
        problem
        for part in found.values()
        for problem in part
        if all(problem.metadata[key] in values for key, values in wanted.items())
    ]
    if not problems:
        raise ProblemSpecError(f"{name}: no problem is left of {options}: ask for less")
    return problems if benchmark.curated else sorted(problems, key=lambda problem: problem.id)


class _Tables:
    """The tables of a benchmark, wherever they lie."""

    def __init__(
        self, benchmark: Benchmark, folder: Path | None, only: bool, subjects: Sequence[str]
    ) -> None:
        self._benchmark, self._folder, self._only = benchmark, folder, only
        self._configs = [
            part for part in benchmark.configs if not benchmark.by_subject or part in subjects
        ]

    def problems(self, split: Split) -> list[Problem]:
        """Return all problems of a split."""
        stem = self._benchmark.splits[split]
        files = self._local(split)
        if files:
            rows = [row for file in files for row in read_rows(file)]
        elif self._only:
            raise ProblemSpecError(
                f"{self._benchmark.name}: {self._folder} holds no {stem}.jsonl (or "
                f"{', '.join(SUFFIXES[1:])}): put it there, or give another path"
            )
        else:
            rows = [row for config in self._configs for row in self._from_hub(config, split)]
        problems = [self._benchmark.read(row, split) for row in rows]
        if self._benchmark.curated:
            refuse_repeated(rows, problems)
        first: dict[str, Problem] = {}
        for problem in problems:
            first.setdefault(problem.id, problem)
        return list(first.values())

    def beside_train(self) -> list[Problem]:
        """Return the test problems that lie where the training ones do, or none if there are none.

        Whoever has nothing but the training split needs no network to train on it.
        """
        if self._local(Split.TRAIN) and not self._local(Split.TEST):
            return []
        return self.problems(Split.TEST)

    def _from_hub(self, config: str | None, split: Split) -> list[Row]:
        return hub_rows(
            self._benchmark.data_set,
            config,
            split.value,
            self._benchmark.revision,
            instead=f"set {DATA_VARIABLE} to a folder that holds "
            f"{self._benchmark.splits[split]}.jsonl, or say {self._benchmark.name}(path='FOLDER')",
        )

    def _local(self, split: Split) -> list[Path]:
        """Return the files that hold a split, or none."""
        if self._folder is None:
            return []
        whole = _existing([self._folder / self._benchmark.splits[split]])
        if whole or not self._benchmark.by_subject:
            return whole
        parts: list[Path] = []
        missing: list[str] = []
        for config in self._configs:
            own = self._folder / self._benchmark.name / str(config)
            shards = sorted(entry for entry in own.glob(f"{split}-*") if entry.suffix in SUFFIXES)
            found = _existing([own.with_name(f"{config}_{split}"), own / split.value]) or shards
            parts += found
            missing += [] if found else [f"{config}_{split}.jsonl"]
        if parts and missing:
            raise ProblemSpecError(
                f"{self._benchmark.name}: {parts[0]} is there but {', '.join(missing)} (or "
                f"{missing[0].removesuffix(f'_{split}.jsonl')}/{split}.jsonl) is not: add it"
            )
        return parts


def _existing(stems: Iterable[Path]) -> list[Path]:
    """Return the first file there is with one of the stems, as a list of one or none."""
    named = (Path(f"{stem}{suffix}") for stem in stems for suffix in SUFFIXES)
    return [file for file in named if file.is_file()][:1]


def _folder(benchmark: Benchmark, options: Mapping[str, Any]) -> Path | None:
    """Return the folder of local copies, if one is named."""
    given = options.get("path") if "path" in options else os.environ.get(DATA_VARIABLE)
    if not given and "path" not in options:
        return None
    what = f"{benchmark.name}: path" if "path" in options else DATA_VARIABLE
    if not isinstance(given, str) or not os.path.isdir(os.path.expanduser(given)):
        raise ProblemSpecError(
            f"{what} must be an existing folder with {next(iter(benchmark.splits.values()))}"
            f".jsonl or its like, got {given!r}"
        )
    return Path(os.path.expanduser(given))


def _filters(benchmark: Benchmark, options: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return what to keep: subjects by their hub names, levels as numbers."""
    wanted: dict[str, tuple[Any, ...]] = {}
    for name, value in options.items():
        if name == "path":
            continue
        if name not in benchmark.filters:
            accepted = ", ".join(("path", *benchmark.filters))
            raise ProblemSpecError(
                f"{benchmark.name}: unknown option {name!r}, expected {accepted}"
                f"{did_you_mean(name, ('path', *benchmark.filters))}"
            )
        listed = tuple(value) if isinstance(value, list | tuple) else (value,)
        listed = tuple(map(_slug, listed)) if name == "subject" else listed
        known = SUBJECTS if name == "subject" else LEVELS
        strange = [entry for entry in listed if entry not in known or isinstance(entry, bool)]
        if strange or not listed:
            raise ProblemSpecError(
                f"{benchmark.name}: {name} must be one of {', '.join(map(str, known))}, or several "
                f"in brackets, got {strange[0] if strange else 'none'!r}"
            )
        wanted[name] = listed
    return wanted


def _without(
    benchmark: Benchmark, train: Sequence[Problem], test: Sequence[Problem]
) -> list[Problem]:
    """Return the training problems, none of which may be in the test split."""
    if not benchmark.curated:
        held_out = {problem.id for problem in test}
        return [problem for problem in train if problem.id not in held_out]
    try:
        check_disjoint(test, train)
    except ValueError as error:
        shared = {problem.id for problem in test} & {problem.id for problem in train}
        places = [
            next(entry for entry in part if entry.id in shared).metadata["read_from"]
            for part in (train, test)
        ]
        raise ProblemSpecError(
            f"{benchmark.name}: {len(shared)} problems are in both splits, such as {places[0]}, "
            f"which is also in {places[1].rpartition(':')[0]}: mend the local copy"
        ) from error
    return list(train)


def _gsm8k(row: Row, split: Split) -> Problem:
    solution = row.text("answer")
    if HASHES not in solution:
        raise ProblemSpecError(
            f"{row.place}: column 'answer' must end in '{HASHES} NUMBER', got "
            f"{described(solution[-60:])}"
        )
    answer = checked_answer(row, "answer", after_hashes(solution), AnswerKind.NUMBER)
    metadata = {"solution": solution, "split": split.value, "read_from": row.read_from}
    return Problem.create(row.text("question"), answer, AnswerKind.NUMBER, "gsm8k", metadata)


def _math(row: Row, split: Split, source: str) -> Problem:
    """Read a row of MATH, which has a ``type``, or of MATH-500, which calls it ``subject``."""
    solution = row.text("solution")
    answer = row.text("answer").strip() if "answer" in row.values else last_boxed(solution)
    if answer is None:
        raise ProblemSpecError(
            f"{row.place}: column 'solution' must hold the answer in \\boxed{{}}, got "
            f"{described(solution[-60:])}"
        )
    subject = _slug(row.text("type" if "type" in row.values else "subject"))
    if subject not in SUBJECTS:
        raise ProblemSpecError(
            f"{row.place}: column 'subject' must be one of {', '.join(SUBJECTS)}, got {subject!r}"
        )
    level = str(row.get("level")).removeprefix("Level").strip()
    metadata = {
        "subject": subject,
        "level": int(level) if level in map(str, LEVELS) else None,  # MATH has a few "Level ?"
        "solution": solution,
        "split": split.value,
        "read_from": row.read_from,
    }
    if "unique_id" in row.values:
        metadata["unique_id"] = plain(row.values["unique_id"])
    row.check_text("answer", answer, answer=True)
    answer = checked_answer(row, "answer", answer, AnswerKind.MATH)
    return Problem.create(row.text("problem"), answer, AnswerKind.MATH, source, metadata)


def _slug(subject: Any) -> str:
    """Return a subject as the hub names it: ``Counting & Probability`` has underscores."""
    return "_".join(str(subject).lower().replace("&", "and").split())


BENCHMARKS = {
    entry.name: entry
    for entry in (
        Benchmark(
            "gsm8k",
            "openai/gsm8k",
            "740312add88f781978c0658806c59bc2815b9866",
            ("main",),
            {Split.TRAIN: "gsm8k_train", Split.TEST: "gsm8k_test"},
            (),
            _gsm8k,
        ),
        Benchmark(
            "math",
            "EleutherAI/hendrycks_math",
            "21a5633873b6a120296cce3e2df9d5550074f4a3",
            SUBJECTS,
            {Split.TRAIN: "math_train", Split.TEST: "math_test"},
            ("subject", "level"),
            partial(_math, source="math"),
            curated=False,
        ),
        Benchmark(
            "math500",
            "HuggingFaceH4/MATH-500",
            "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            (None,),
            {Split.TEST: "math500"},
            ("subject", "level"),
            partial(_math, source="math500"),
        ),
    )
}
