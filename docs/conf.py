"""How `make docs` makes the pages: Sphinx over docs/*.md and the docstrings of the public names.

A name in backticks in a docstring is linked where it has an entry. Where it has none it must at
least exist, or the build fails, as it does for a broken link and for a public name left out.
"""

import importlib
import pkgutil
import re
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, get_origin

from sphinx.ext.autodoc.mock import mock
from sphinx.util import logging

from populora_env.settings import field_rules

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
project = "PopuLoRA"
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md", "docs/api/*.rst"]
html_theme = "furo"
html_title = "PopuLoRA"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_show_copyright = False
html_copy_source = False
highlight_language = "text"
myst_heading_anchors = 3
default_role = "py:obj"
add_module_names = False
python_maximum_signature_line_length = 88
autodoc_inherit_docstrings = False  # those of Gymnasium and PettingZoo are theirs
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_use_ivar = True
napoleon_attr_annotations = False  # signatures show them
nitpicky = True
nitpick_ignore_regex = [  # what others document
    ("py:.*", r"(collections|pathlib|numpy|torch|gymnasium|pettingzoo|rich|verifiers)\..*"),
]

# Has pages although it is not installed with the rest: it asks for other versions of what is.
with mock(["verifiers"]):
    importlib.import_module("populora_env.interop.verifiers")

LOGGER = logging.getLogger(__name__)
PACKAGES = ("populora_env", "agents", "evolution")
API = [path.stem for path in (Path(__file__).parent / "api").glob("*.rst")]


FOLDERS = {"docs/environments/index": "docs/environments/", "docs/results": "docs/results/"}


def contents(app, docname, source):
    """Give the index what the sections of its links make, and a folder's first page the others."""
    if docname in FOLDERS:
        inside = [page for page in app.env.found_docs if page.startswith(FOLDERS[docname])]
        table = "\n".join(f"/{page}" for page in sorted(inside) if page != docname)
        source[0] += f"\n```{{toctree}}\n:hidden:\n\n{table}\n```\n" if table else ""
    if docname == root_doc:
        for caption, text in re.findall(r"^## (.+)\n((?:.|\n)+?)(?=^## |\Z)", source[0], re.M):
            links = re.findall(r"\[([^]]+)\]\(([\w./-]+)\.(?:md|rst)\)", text)
            pages = [
                f"{title if page.endswith(title) else title[0].upper() + title[1:]} <{page}>"
                for title, page in links
            ]
            table = "\n".join([":hidden:", f":caption: {caption}", "", *pages])
            source[0] += f"\n```{{toctree}}\n{table}\n```\n"


FIELDS, RANGES = {}, {}


def ranges_apart(app):
    """Take ranges out of the types of fields; they are said after the fields' words."""
    for module in map(importlib.import_module, API):
        for name in module.__all__:
            kind = getattr(module, name)
            if not (isinstance(kind, type) and is_dataclass(kind)):
                continue
            for field, rule in field_rules(kind).items():
                if rule.limit is not None:
                    RANGES[f"{module.__name__}.{name}.{field}"] = f" ({rule.limit})"
            for types in (kind.__annotations__, kind.__init__.__annotations__):
                for field, hint in types.items():
                    types[field] = hint.__origin__ if get_origin(hint) is Annotated else hint


def before_napoleon(app, what, name, obj, options, lines):
    """Keep what is said of a field: Napoleon takes what stands before a colon for its type."""
    if what in ("attribute", "data", "property"):
        FIELDS[name] = list(lines)


def after_napoleon(app, what, name, obj, options, lines):
    """Give a field its words back, and its range."""
    lines[:] = FIELDS.pop(name, lines)
    if name in RANGES:
        last = max(number for number, line in enumerate(lines) if line)
        lines[last] += RANGES[name]


def members_of_enums(app, what, name, obj, skip, options):
    """Show the members of enumerations, which need no docstring of their own."""
    return False if isinstance(obj, Enum) else None


def readable_defaults(app, what, name, obj, options, signature, returns):
    """Write a dataclass's made default so that Sphinx can read the signature."""
    return signature and signature.replace("<factory>", "..."), returns


@cache
def modules():
    """All modules of the project, by name, but those for packages that are not installed."""
    found = {}
    for package in map(importlib.import_module, PACKAGES):
        found[package.__name__] = package
        for entry in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                found[entry.name] = importlib.import_module(entry.name)
            except ModuleNotFoundError as error:
                if str(error.name).partition(".")[0] in PACKAGES:
                    raise
    return found


def exists(name, known):
    """Whether a name, whole or from a room's on, is that of something in the project."""
    parts = name.split(".")
    for cut in range(len(parts)):
        room = ".".join(parts[:cut])
        for module, found in known.items():
            if cut and module != room and not module.endswith(f".{room}"):
                continue
            for part in parts[cut:]:
                found = getattr(found, part, None) or getattr(
                    found, "__dataclass_fields__", {}
                ).get(part)
            if found is not None:
                return True
    return any(module == name or module.endswith(f".{name}") for module in known)


def link_or_look(app, env, node, contnode):
    """Let a name stand that has no entry, if there is such a name."""
    return contnode if exists(node["reftarget"], modules()) else None


def finish(app, error):
    """Check that every public name has its entry, and lead from the root to the index."""
    if error is None:
        entries = set(app.env.domains.python_domain.objects)
        for module in map(importlib.import_module, API):
            for name in set(module.__all__) - {"__version__"}:
                found = getattr(module, name)
                at_home = f"{getattr(found, '__module__', '')}.{name}"
                if not {f"{module.__name__}.{name}", at_home} & entries:
                    LOGGER.warning("%s.%s has no entry", module.__name__, name)
        (Path(app.outdir) / "index.html").write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
        )


def setup(app):
    """Connect all of these."""
    app.connect("builder-inited", ranges_apart)
    app.connect("source-read", contents)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)  # Napoleon's is 500
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-skip-member", members_of_enums)
    app.connect("autodoc-process-signature", readable_defaults)
    app.connect("missing-reference", link_or_look)
    app.connect("build-finished", finish)
