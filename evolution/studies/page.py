"""What a study leaves to be read: ``table.md``, and an SVG for each of its questions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.plain_files import write_whole
from evolution.errors import UsageError
from evolution.studies.charts import chart
from evolution.studies.comparing import Answer
from evolution.studies.design import Study
from evolution.studies.measured import Cell
from evolution.studies.tables import differences, explained, markdown, means, overview

TABLE_FILE = "table.md"


def write_page(
    folder: Path,
    study: Study,
    cells: Mapping[str, Mapping[int, Cell]],
    answers: Sequence[Answer],
) -> list[Path]:
    """Write the tables and figures into a folder that exists; what they replace is gone.

    Returns:
        The files.

    Raises:
        UsageError: If one cannot be written.
    """
    texts: dict[str, str] = {}
    lines = [f"# {study.name}", ""]
    for answer in answers:
        lines += [f"## {answer.question.title}", ""]
        if not answer.rows:
            lines += ["Nothing of it was played yet.", ""]
            continue
        name = f"{answer.question.slug}.svg"
        texts[name] = chart(answer, study.held_out)
        lines += [f"![{answer.question.title}]({name})", ""]
        for grid in (means(answer), differences(answer)):
            lines += [*markdown(grid), ""] if grid is not None else []
        for note in (answer.question.note, *answer.notes):
            lines += [note, ""] if note else []
    lines += ["## All arms", "", *markdown(overview(study, cells)), ""]
    lines += [" ".join(explained(study, answers)), ""]
    texts[TABLE_FILE] = "\n".join(lines)
    try:
        for name, text in texts.items():
            write_whole(folder / name, text)
    except OSError as error:
        raise UsageError(
            f"out: cannot write to {folder} ({error.strerror}); choose another folder"
        ) from error
    return [folder / name for name in texts]
