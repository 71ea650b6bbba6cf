"""The house: what may import what, and how much a room holds."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the lowest to the highest. A room, or a file that lies in no room, imports only what stands
# above it here, and nobody imports in circles. What is imported for types alone does not count.
ORDER = [
    "populora_env.moved",
    "populora_env.keys",
    "populora_env.errors",
    "populora_env.settings",
    "populora_env.spaces",
    "populora_env.storage",
    "populora_env.program",
    "populora_env.code",
    "populora_env.proposals.record",
    "populora_env.records",
    "populora_env.prompts",
    "populora_env.ratings",
    "populora_env.reading",
    "populora_env.chat",
    "populora_env.grading",
    "populora_env.problems.sources",
    "populora_env.problems.files",
    "populora_env.problems.drawing",
    "populora_env.proposals",
    "populora_env.problems",
    "populora_env.judges",
    "populora_env.episodes",
    "populora_env.arena",
    "populora_env.gym",
    "populora_env.trl",
    "populora_env.interop",
    "populora_env.testing",
    "populora_env",
    "agents.old_names",
    "agents.plain_files",
    "agents.progress",
    "agents.workers.shards",
    "agents.prompts",
    "agents.peft_config",
    "agents.peft_io",
    "agents.compiled",
    "agents.compiled.trees",
    "agents.machine",
    "agents.loading",
    "agents.engine",
    "agents.vllm",
    "agents.learning",
    "agents.policy",
    "agents.http_policy",
    "agents.rollout",
    "agents.measuring",
    "agents.named_adapters",
    "agents.population",
    "agents.workers",
    "agents",
    "evolution.old_names",
    "evolution",
    "evolution.errors",
    "evolution.terminal",
    "evolution.registry",
    "evolution.lowrank",
    "evolution.operators",
    "evolution.exchange",
    "evolution.fitness",
    "evolution.loggers",
    "evolution.config",
    "evolution.individuals",
    "evolution.learning",
    "evolution.guard",
    "evolution.results",
    "evolution.runs",
    "evolution.run_problems",
    "evolution.run_population",
    "evolution.loggers.held_out",
    "evolution.reporting.measures",
    "evolution.reporting.page",
    "evolution.reporting.charts",
    "evolution.reporting.anatomy",
    "evolution.reporting",
    "evolution.watch",
    "evolution.manager",
    "evolution.planning",
    "evolution.studies",
    "evolution.commands",
    "evolution.commands.evolve",
    "evolution.commands.bench",
    "evolution.commands.export",
    "evolution.commands.push",
    "evolution.commands.distill",
    "evolution.commands.play",
    "evolution.commands.doctor",
    "evolution.engine_benchmark",
    "evolution.cli",
]
MOST_FILES = 12


def modules() -> dict[str, Path]:
    found = {}
    for package in ("populora_env", "agents", "evolution"):
        for file in (ROOT / package).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = file
    return found


MODULES = modules()


def place(module: str) -> int:
    """Where a module stands in the order: by itself, or with its room."""
    if module not in ORDER:
        module = module.rpartition(".")[0]
    return ORDER.index(module)


def imports(tree: ast.AST):
    """Names of modules that a tree imports, with their lines; not those for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below in MODULES else node.module, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        yield from imports(node)


def upward(module: str, text: str) -> list[str]:
    """Lines of a module that import what stands higher."""
    tree = ast.parse(text)
    return [
        f"{module}:{line} imports {name}"
        for name, line in imports(tree)
        if name in MODULES and name != module and place(name) > place(module)
    ]


@pytest.mark.parametrize("package", ["populora_env", "agents", "evolution"])
def test_imports_go_downwards(package):
    lines = []
    for module, file in MODULES.items():
        if module.partition(".")[0] == package:
            lines += upward(module, file.read_text(encoding="utf-8"))
    assert lines == []


def test_an_import_upwards_is_noticed():
    text = "def late():\n    from evolution import manager\n"
    assert upward("agents.population", text) == ["agents.population:2 imports evolution.manager"]
    assert upward("evolution.cli", text) == []


def test_every_module_has_its_place_and_every_place_is_taken():
    for module in MODULES:
        place(module)
    assert len(set(ORDER)) == len(ORDER)
    assert [name for name in ORDER if name not in MODULES] == []


def test_no_room_is_crowded():
    rooms = {file.parent for file in MODULES.values()}
    full = {str(room): len(list(room.glob("*.py"))) for room in rooms}
    assert {room: count for room, count in full.items() if count > MOST_FILES} == {}


def old_names() -> list[tuple[str, str]]:
    names: dict[str, str] = {}
    for table in ("populora_env.moved.names", "agents.old_names", "evolution.old_names"):
        names |= importlib.import_module(table).NAMES
    return sorted(names.items())


@pytest.mark.slow
def test_old_names_import_with_a_warning_that_says_the_new_one():
    code = """
import importlib, sys, warnings
for pair in sys.argv[1:]:
    old, new = pair.split("=")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DeprecationWarning)
        module = importlib.import_module(old)
    assert module is importlib.import_module(new), old
    words = [str(w.message) for w in said if w.category is DeprecationWarning]
    assert f"{old} is now {new}" in words, (old, words)
from agents import evaluate
import agents.evaluate
assert agents.evaluate is evaluate and callable(evaluate)
"""
    pairs = [f"{old}={new}" for old, new in old_names()]
    assert len(pairs) > 100
    done = subprocess.run(
        [sys.executable, "-c", code, *pairs], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]


@pytest.mark.parametrize(
    ("package", "name", "home"),
    [
        ("evolution.loggers", "JsonlLogger", "evolution.loggers.base"),
        ("evolution.fitness", "score", "evolution.fitness.task"),
        ("evolution.operators", "Operators", "evolution.registry"),
        ("evolution.lowrank", "compress", "evolution.lowrank.algebra"),
        ("populora_env.problems.files", "SUFFIXES", "populora_env.problems.files.reading"),
    ],
)
def test_what_a_module_held_that_is_a_room_now_is_still_found(package, name, home):
    with pytest.warns(DeprecationWarning, match=f"{package}.{name} is now {home}.{name}"):
        found = getattr(importlib.import_module(package), name)
    assert found is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        importlib.import_module(package).nothing  # noqa: B018
