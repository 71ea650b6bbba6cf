"""Whether problems fit a model's context, which is checked before a run and not when one is drawn.

Procedural problems are made while the run goes on and are not looked at here.
"""

from collections.abc import Iterable

from agents.loading.models import BaseModel
from evolution.errors import ConfigError
from populora_env.problems import ProblemSource, SequenceSource
from populora_env.prompts import solve_prompt
from populora_env.records import Problem


def check_fit(base: BaseModel, problems: Iterable[Problem], solve_tokens: int) -> None:
    """Check that attempts at all problems fit the model's context.

    Args:
        base: The model.
        problems: A source that is not a list of problems is not looked at.
        solve_tokens: Length limit of an attempt.

    Raises:
        ConfigError: If one does not; the message names the first and says how many there are.
    """
    limit = base.context
    if limit is None or (isinstance(problems, ProblemSource) and not _is_given(problems)):
        return
    first, found = "", 0
    around = len(base.chat_ids(""))  # what the chat template adds
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            continue
        seen.add(problem.id)
        prompt = solve_prompt(problem)
        # A token stands for at least one byte, so most need not be encoded.
        if len(prompt.encode("utf-8", "replace")) + around + solve_tokens <= limit:
            continue
        length = len(base.chat_ids(prompt))
        if length + solve_tokens > limit:
            found += 1
            first = first or (
                f"{problem.id} ({problem.prompt[:40]!r}...) is {length} tokens long, and with "
                f"{solve_tokens} of an attempt exceeds the model's context of {limit}"
            )
    if found:
        others = f"; so do {found - 1} more of {len(seen)}" if found > 1 else ""
        raise ConfigError(
            f"problems: {first}{others}; leave out what is too long, or lower solve_tokens"
        )


def _is_given(source: ProblemSource) -> bool:
    return isinstance(source, SequenceSource)
