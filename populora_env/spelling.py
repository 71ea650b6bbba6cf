"""What somebody probably meant by a name that does not exist."""

import difflib
from collections.abc import Iterable


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
