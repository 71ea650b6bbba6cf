"""Writes docs/licences.md from what is installed: ``python docs/licences.py``.

Every package that the core or an extra of ``all`` needs, directly or not, with its version and its
licence as its own metadata state it: the SPDX expression where there is one, else the classifier
where that names one licence, else what the author wrote. What is not installed is said to be so.
"""

from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).with_name("licences.md")
PACKAGE = "populora-env"
# Classifiers that name one licence, by SPDX identifier.
_SPDX = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
}
# What authors write where they mean an identifier.
_WRITTEN = {
    "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0", "apache": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0", "apache license, version 2.0": "Apache-2.0",
    "mit license": "MIT", "bsd 3-clause": "BSD-3-Clause", "3-clause bsd license": "BSD-3-Clause",
}  # fmt: skip


def licence(found: Distribution) -> str:
    """A distribution's licence, by SPDX identifier where that can be told."""
    about = found.metadata
    if said := about.get("License-Expression"):
        return said
    written = (about.get("License") or "").strip()
    if known := _WRITTEN.get(written.lower().rstrip(".")):
        return known
    with suppress(InvalidLicenseExpression):
        return canonicalize_license_expression(written)
    classified = [
        entry.rpartition(" :: ")[2]
        for entry in about.get_all("Classifier") or []
        if entry.startswith("License :: ")
    ]
    if len(classified) == 1 and classified[0] in _SPDX:
        return _SPDX[classified[0]]
    first = written.splitlines()[0] if written else ""
    return ", ".join(classified) or first[:60] or "not stated"


def needs(found: Distribution, extras: set[str]) -> list[Requirement]:
    """What a distribution needs here, with these of its extras."""
    asked = [Requirement(text) for text in found.requires or []]
    return [
        need
        for need in asked
        if need.marker is None
        or any(need.marker.evaluate({"extra": extra}) for extra in {"", *extras})
    ]


def closure(extras: set[str]) -> dict[str, Distribution | None]:
    """All that the package with these extras needs, by name; None for what is not installed."""
    found: dict[str, Distribution | None] = {}
    waiting = needs(distribution(PACKAGE), extras)
    asked: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if (key := (name, frozenset(need.extras))) in asked:
            continue
        asked.add(key)
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            found.setdefault(name, None)
            continue
        waiting += needs(distribution(name), set(need.extras))
    found.pop(PACKAGE, None)
    return found


def page() -> str:
    """Return the page: a table for the core, and one for what `all` adds."""
    core, whole = closure(set()), closure({"all"})
    added = {name: found for name, found in whole.items() if name not in core}
    parts = [
        "# Licences\n\nWhat the packages that come along say of their licences, with the versions "
        "that were installed when `python docs/licences.py` wrote this page. PopuLoRA itself is "
        "Apache-2.0."
    ]
    for title, rows in (("The core", core), ("What the extra all adds", added)):
        lines = ["| package | version | licence |", "| --- | --- | --- |"]
        for name, found in sorted(rows.items()):
            said = (found.version, licence(found)) if found else ("", "not installed here")
            lines.append(f"| {name} | {said[0]} | {said[1]} |")
        parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
