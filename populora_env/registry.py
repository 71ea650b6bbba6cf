"""What settings call by name, the one way to add to it, and what a misspelt name meant.

    from populora_env import REWARD_PRESETS, RewardWeights

    REWARD_PRESETS.add("judges")(RewardWeights(correctness=0, judging=1))

What is a function takes its name by decoration, as in ``@ADVANTAGES.add("mine")``.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """Things of one kind by name, in the order they came; a dictionary.

    Args:
        kind: What they are, as messages call them.
        known: Those it begins with.
    """

    error: type[Exception] = ValueError
    """What a name that cannot be added raises."""

    def __init__(self, kind: str, known: Mapping[str, T] | None = None) -> None:
        super().__init__(known or {})
        self.kind = kind

    def add(self, name: str) -> Callable[[T], T]:
        """Return what gives this name to what it is called with, such as a decorated function.

        Args:
            name: One that nothing else of the kind has.

        Raises:
            ValueError: If the name is taken or cannot be one; at once.
        """
        self.check_name(name)

        def keep(entry: T) -> T:
            self[name] = entry
            return entry

        return keep

    def check_name(self, name: str) -> None:
        """Raise `error` if a new entry cannot have this name."""
        if name in self:
            raise self.error(f"{self.kind}: {name!r} exists already; choose another name")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``; did you mean X?``, or nothing if no known name is near.

    Case, and whether words are joined by ``-`` or ``_``, make no difference.

    Args:
        name: What was written.
        known: Names that exist.
    """
    names = {_plain(entry): entry for entry in known}
    near = difflib.get_close_matches(_plain(str(name)[:100]), names, n=1, cutoff=0.6)
    return f"; did you mean {names[near[0]]}?" if near else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
