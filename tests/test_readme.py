"""What the pages show and name: code that runs, commands that parse, names, files and links."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
import shlex
import tomllib
from itertools import zip_longest
from pathlib import Path
from unittest import mock

import pytest

# What a command or a name imports may draw from the shared generators as it is imported.
pytestmark = pytest.mark.usefixtures("shared_generators")

ROOT = Path(__file__).parents[1]
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
TEXTS = [README, CONTRIBUTING, *sorted((ROOT / "docs").glob("**/*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
PACKAGES = ("populora_env", "agents", "evolution")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block."""

    where: str
    language: str
    text: str
    prints: str | None
    """The next block, where nothing but the word ``prints`` is between the two."""


def blocks() -> list[Block]:
    found: list[Block] = []
    for file in TEXTS:
        text = file.read_text(encoding="utf-8")
        fenced = list(FENCED.finditer(text))
        for block, after in zip_longest(fenced, fenced[1:]):
            shown = after is not None and text[block.end() : after.start()].strip() == "prints"
            line = text.count("\n", 0, block.start()) + 1
            found.append(
                Block(f"{file.name}:{line}", block[1], block[2], after[2] if shown else None)
            )
    return found


def spans() -> list[str]:
    """What stands in single backticks."""
    prose = [FENCED.sub("", file.read_text(encoding="utf-8")) for file in TEXTS]
    return list(dict.fromkeys(re.findall(r"`([^`\n]+)`", "\n".join(prose))))


def commands() -> list[str]:
    lines = [line for b in blocks() if b.language != "python" for line in b.text.splitlines()]
    names = [text for text in [*lines, *spans()] if re.match(r"populora [a-z][a-z-]*", text)]
    return [text for text in names if not re.fullmatch("populora [a-z-]+", text)]


PYTHON = [block for block in blocks() if block.language == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=[block.where for block in PYTHON])
def test_code_runs_and_prints_what_is_shown(block, monkeypatch, tmp_path, capsys, tiny_base):
    from agents import population

    # The embedded model takes a minute for what a tiny one shows in seconds;
    # `examples/evolve_a_population.py` is the same with the former.
    monkeypatch.setattr(population, "load_base", lambda *_, **__: tiny_base)
    monkeypatch.chdir(tmp_path)
    code = compile(block.text, block.where, "exec", dont_inherit=True)
    with contextlib.ExitStack() as kept:  # what a page adds is gone after it
        for registry in map(resolve, REGISTRIES):
            kept.enter_context(mock.patch.dict(registry))
        exec(code, {"__name__": "readme"})
    if block.prints is not None:
        assert capsys.readouterr().out == block.prints


def test_something_is_shown_to_be_printed():
    assert any(block.prints for block in PYTHON)


def parse_command(line: str) -> None:
    """Read a command's words as the command itself would, but for presets and saved runs."""
    from evolution.cli import COMMANDS
    from evolution.commands.usage import parse

    command, *words = shlex.split(line, comments=True)[1:]
    if words == ["--help"]:
        words = []
    if command == "bench" and words and not words[0].startswith("-"):
        words.insert(0, "--tasks")
    _, module, name = COMMANDS[command]
    options = getattr(importlib.import_module(module), name)
    import tyro

    required = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(options)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    parse(options, words, default=options(**required), prog=f"populora {command}")


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line):
    parse_command(line)


def test_commands_exist():
    from evolution.cli import COMMANDS

    named = {found for text in spans() for found in re.findall(r"^populora ([a-z][a-z-]*)", text)}
    assert named - set(COMMANDS) == set()


@pytest.mark.parametrize("text", [span for span in spans() if span.startswith("--")])
def test_flags_exist(text):
    from evolution.cli import COMMANDS
    from evolution.commands.help_text import read_options
    from evolution.errors import UsageError

    flags = [word for word in shlex.split(text) if word.startswith("--")]
    names = {flag.partition("=")[0][2:].replace("-", "_") for flag in flags}
    takers = [
        command
        for command, (_, module, name) in COMMANDS.items()
        if names <= {option.name for option in read_options(module, name)[1]}
    ]
    assert takers, f"no command has {flags}"
    if text == flags[0]:  # named, not shown in use
        return
    refusals: list[str] = []
    for command in takers:
        try:
            return parse_command(f"populora {command} {text}")
        except UsageError as error:
            refusals.append(str(error))
    pytest.fail("; ".join(refusals))


OPERATORS = [
    ("--selection", "evolution.operators.selection.SELECTIONS"),
    ("--crossover", "evolution.operators.crossover.CROSSOVERS"),
    ("--exchange", "evolution.exchange.EXCHANGES"),
    ("--gate", "evolution.exchange.gate.GATES"),
    ("--mutations", "evolution.operators.mutation_weights.MUTATIONS"),
    ("--diversity", "evolution.fitness.diversity.KERNELS"),
    ("--diversity-bar", "evolution.fitness.attempts.MINIMAL_CRITERIA"),
    ("--fitness-scale", "evolution.fitness.scaling.SCALES"),
    ("--fitness", "evolution.fitness.rules.FITNESSES"),
    ("--log", "evolution.loggers.named.LOGGERS"),
]
REGISTRIES = [
    *(registry for _, registry in OPERATORS),
    "evolution.fitness.scaling.SCHEDULES",
    "evolution.fitness.descriptors.DESCRIPTORS",
    "evolution.CLASSIFIERS",
    "agents.ADVANTAGES",
    "populora_env.REWARD_PRESETS",
    "populora_env.SOURCES",
    "populora_env.TASKS",
]


@pytest.mark.parametrize(("row", "registry"), OPERATORS)
def test_every_operator_is_named(row, registry):
    text = " ".join(file.read_text(encoding="utf-8") for file in TEXTS)
    names = {name.partition("(")[0] for name in spans()}
    known = set(resolve(registry))
    assert f"`{row}`" in text
    assert known
    assert known - names == set()
    if table := re.search(rf"^\| `{row}` \| (.*) \|$", text, re.MULTILINE):
        listed = table[1].partition("; joined by")[0]
        assert {n.partition("(")[0] for n in re.findall(r"`([^`]+)`", listed)} == known


def test_every_prompt_is_named():
    from populora_env.problems.fewshot import PRESETS

    assert set(PRESETS) == {span for span in spans() if re.fullmatch(r"[\w-]+-v\d+", span)}


def resolve(dotted: str):
    """What a dotted name stands for."""
    package, *names = dotted.split(".")
    found = importlib.import_module(package)
    for name in names:
        package = f"{package}.{name}"
        try:
            found = getattr(found, name)
        except AttributeError:
            found = importlib.import_module(package)
    return found


DOTTED = sorted(
    set(re.findall(rf"(?<![\w.])(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]+)+", "\n".join(spans())))
)


@pytest.mark.parametrize("name", DOTTED)
def test_dotted_names_exist(name):
    resolve(name)


def test_named_classes_and_checks_exist():
    names = set()
    for span in spans():
        if found := re.match(r"(?:[A-Z][a-z]+[A-Z]\w*|check_\w+)(?=\(|$)", span):
            names.add(found[0])
    names.discard("GRPOTrainer")  # of TRL
    assert len(names) > 10
    modules = [*PACKAGES, "populora_env.testing", "populora_env.judges", "populora_env.trl"]
    places = [importlib.import_module(module) for module in modules]
    assert [n for n in sorted(names) if not any(hasattr(p, n) for p in places)] == []


def test_an_advantage_of_ones_own_is_a_setting():
    from agents import ADVANTAGES
    from evolution import ConfigError, EvolutionConfig

    with pytest.raises(ConfigError, match="advantage: got 'mine'"):
        EvolutionConfig(advantage="mine").check()
    with mock.patch.dict(ADVANTAGES):
        ADVANTAGES.add("mine")(ADVANTAGES["rloo"])
        EvolutionConfig(advantage="mine").check()


def test_files_targets_and_extras_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shown = "\n".join([*spans(), *(b.text for b in blocks() if b.language != "python")])
    targets = re.findall(r"^make ([\w-]+)", shown, re.MULTILINE)
    assert "test-all" in targets
    for target in targets:
        assert f"\n{target}:" in makefile
    for extra in re.findall(r"populora-env\[(\w+)\]", shown):
        assert extra in project["optional-dependencies"]
    files = re.findall(
        r"\b(?:examples|tests|evolution|agents|populora_env|docs)/[\w/.-]+\.(?:py|c|toml|md)\b",
        shown,
    )
    assert [file for file in files if not (ROOT / file).exists()] == []
    for script in re.findall(r"^examples/\S+\.py .*", shown, re.MULTILINE):
        file, *words = shlex.split(script)
        source = (ROOT / file).read_text(encoding="utf-8")
        assert [w for w in words if w.startswith("--") and f'"{w}"' not in source] == []


TREES = [block for block in blocks() if block.text.startswith("populora_env/  ")]


@pytest.mark.parametrize("tree", TREES, ids=[tree.where for tree in TREES])
def test_a_tree_is_that_of_the_repository(tree):
    folder, named, missing = "", set(), []
    for line in tree.text.splitlines():
        listed = line if not line.startswith("   ") else ""  # else: the words of the line above
        if not listed.startswith(" "):
            folder = listed.split("/")[0] or folder
            continue
        for name in re.findall(r"(?:^ +|(?<=, ))([a-z]\w*(?:\.\w+|/))", listed):
            path = ROOT / folder / name
            named.add(path)
            missing += [] if path.exists() else [str(path.relative_to(ROOT))]
    assert missing == []
    rooms = {
        room
        for package in PACKAGES
        for room in (ROOT / package).iterdir()
        if any(room.glob("*.py"))
    }
    assert rooms <= named


def test_the_front_page_and_the_architecture_have_a_tree():
    assert {tree.where.split(":")[0] for tree in TREES} == {"README.md", "architecture.md"}


def test_the_front_page_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 160


def anchors(file: Path) -> set[str]:
    """What a link may name in a page: its headings, as GitHub and MyST spell them."""
    text = FENCED.sub("", file.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("file", TEXTS, ids=[file.name for file in TEXTS])
def test_links_resolve(file):
    prose = FENCED.sub("", file.read_text(encoding="utf-8"))
    broken = []
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", prose)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        to = (file.parent / path).resolve() if path else file
        if not to.is_file() or (anchor and anchor not in anchors(to)):
            broken.append(link)
    assert broken == []


def test_every_page_is_linked_from_the_front_page_and_the_index():
    pages = {file.name for file in TEXTS if file.parent == ROOT / "docs"} - {"index.md"}
    for file in (README, ROOT / "docs" / "index.md"):
        links = LINK.findall(file.read_text(encoding="utf-8"))
        assert pages <= {Path(link.partition("#")[0]).name for link in links}


def test_what_to_open_for_a_change_exists():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## To change X, open Y")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!to change|---)(.+?) \| (.+) \|$", table, re.MULTILINE)
    assert len(rows) >= 20
    for change, places in rows:
        paths = [span for span in re.findall(r"`([^`]+)`", places) if "/" in span]
        assert paths, change
        assert [path for path in paths if not (ROOT / path).is_file()] == [], change
