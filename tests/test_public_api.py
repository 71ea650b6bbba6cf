"""What users may call, word for word in public_api.txt: a change of it shows in review.

``python -m tests.test_public_api`` writes the file anew.
"""

import enum
import importlib
import inspect
import re
import typing
from pathlib import Path

import pytest

PAGE = Path(__file__).with_name("public_api.txt")
PACKAGES = ("populora_env", "agents", "evolution")
ROOMS = ("populora_env.gym", "populora_env.judges", "populora_env.testing", "populora_env.trl")


def listed(module: str) -> list[str]:
    """Lines that say what a module offers: signatures, fields and members, in order of names."""
    found, lines = importlib.import_module(module), []
    for name in sorted(found.__all__):
        entry, where = getattr(found, name), f"{module}.{name}"
        if isinstance(entry, enum.EnumType):
            lines += [f"{where}.{member.name} = {member.value!r}" for member in entry]
        elif inspect.isclass(entry) and issubclass(entry, Exception):
            lines.append(f"{where} is a {', '.join(base.__name__ for base in entry.__bases__)}")
        elif typing.is_typeddict(entry):
            hints = typing.get_type_hints(entry)
            lines += [f"{where}[{key!r}]: {inspect.formatannotation(hints[key])}" for key in hints]
        elif getattr(entry, "_is_protocol", False):
            lines += [
                f"{where}.{each}{signature(member)}"
                for each, member in sorted(members(entry).items())
            ]
        elif inspect.isclass(entry):
            lines.append(f"{where}{signature(entry)}")
            for each, member in sorted(members(entry).items()):
                if isinstance(member, property):
                    lines.append(f"{where}.{each}: {annotation(member.fget)}")
                elif inspect.isroutine(getattr(entry, each)):
                    lines.append(f"{where}.{each}{signature(getattr(entry, each))}")
        elif inspect.isroutine(entry):
            lines.append(f"{where}{signature(entry)}")
        else:
            lines.append(f"{where}: {type(entry).__name__}")
    return lines


def members(entry: type) -> dict[str, object]:
    """Public members of a class and of its bases that are ours."""
    found: dict[str, object] = {}
    for base in reversed(entry.__mro__):
        if base.__module__.partition(".")[0] in PACKAGES:
            found |= {name: value for name, value in vars(base).items() if name[0] != "_"}
    return found


def signature(entry: object) -> str:
    """Arguments with short types and defaults; one a line where they are many."""
    given = inspect.signature(entry)  # type: ignore[arg-type]
    arguments: list[str] = []
    for parameter in given.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in {a[:1] for a in arguments}:
            arguments.append("*")
        if parameter.default is not parameter.empty:
            parameter = parameter.replace(default=Shown(parameter.default))
        arguments.append(short(str(parameter)))
    line = f"({', '.join(arguments)})"
    if len(line) > 80:
        line = "".join(["(", *(f"\n    {argument}," for argument in arguments), "\n)"])
    returned = "" if given.return_annotation is given.empty else f" -> {annotation(entry)}"
    return line + returned


def annotation(function: object) -> str:
    return short(inspect.formatannotation(inspect.signature(function).return_annotation))  # type: ignore[arg-type]


def short(text: str) -> str:
    """Types without their modules and quotes; defaults as they are."""
    kind, equals, default = text.partition(" = ")
    kind = re.sub(r"\*<class '(.*)'>", r"Unpack[\1]", kind)  # as later versions of Python say it
    kind = re.sub(r"'(\w[^']*)'", r"\1", kind)  # types that are named before they are made
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", kind) + equals + default


class Shown:
    """A default as a reader knows it: what is long or has no words of its own is ``...``."""

    def __init__(self, value: object) -> None:
        text = repr(value)
        if isinstance(value, enum.Enum):
            text = f"{type(value).__name__}.{value.name}"
        self.text = text if len(text) < 60 and "<" not in text else "..."

    def __repr__(self) -> str:
        return self.text


def page() -> str:
    return "".join(f"{line}\n" for module in (*PACKAGES, *ROOMS) for line in listed(module))


def test_the_public_names_and_their_signatures_are_those_of_the_file():
    assert page() == PAGE.read_text(encoding="utf-8"), (
        "where it is meant: python -m tests.test_public_api, and a line in CHANGELOG.md"
    )


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_shows_its_public_names_and_nothing_else(name):
    package = importlib.import_module(name)
    assert dir(package) == sorted(package.__all__)
    assert all(hasattr(package, entry) for entry in package.__all__)


@pytest.mark.parametrize("name", ["parallel_env", "raw_env", "env"])
def test_the_makers_of_arenas_have_the_arguments_of_the_arena(name):
    import populora_env

    made = inspect.signature(getattr(populora_env, name), follow_wrapped=False).parameters
    assert made == inspect.signature(populora_env.ReasoningArena).parameters
    assert made["num_agents"].annotation is int
    assert made["num_agents"].default == 4
    assert made["judge_load"].kind is inspect.Parameter.KEYWORD_ONLY
    assert not any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in made.values())


def test_the_view_of_one_learner_has_the_arguments_of_the_arena_and_two_of_its_own():
    from populora_env import ReasoningArena, gym

    arena = inspect.signature(ReasoningArena).parameters
    options = {name for name, entry in arena.items() if entry.kind is entry.KEYWORD_ONLY}
    made = dict(inspect.signature(gym.ReasoningSolo).parameters)
    assert made.pop("peers").default is None
    assert made.pop("limits").kind is inspect.Parameter.KEYWORD_ONLY
    assert list(made.items()) == list(arena.items())
    wanted = typing.get_type_hints(ReasoningArena.__init__)
    assert typing.get_type_hints(gym.ArenaOptions) == {name: wanted[name] for name in options}
    assert not gym.ArenaOptions.__required_keys__


def test_every_registry_is_extended_in_the_same_way():
    from populora_env import Registry

    registries = {
        f"{module}.{name}": getattr(importlib.import_module(module), name)
        for module in PACKAGES
        for name in importlib.import_module(module).__all__
        if isinstance(getattr(importlib.import_module(module), name), Registry)
    }
    assert {name.rpartition(".")[2] for name in registries} >= {
        "ADVANTAGES", "CLASSIFIERS", "CROSSOVERS", "DESCRIPTORS", "EMBEDDERS", "FITNESSES",
        "KERNELS", "MINIMAL_CRITERIA", "MUTATIONS", "REWARD_PRESETS", "SCALES", "SCHEDULES",
        "SELECTIONS", "SOURCES",
    }  # fmt: skip
    kinds = "Registry|Operators|Sources|Classifiers|Exchanges"
    made = re.compile(rf"^([A-Z_]+) = (?:{kinds})\b", re.MULTILINE)
    root = PAGE.parents[1]
    files = [file for package in PACKAGES for file in (root / package).rglob("*.py")]
    anywhere = {name for file in files for name in made.findall(file.read_text(encoding="utf-8"))}
    assert anywhere == {name.rpartition(".")[2] for name in registries}
    for name, registry in registries.items():
        more = {"classes": ("a",)} if name == "evolution.CLASSIFIERS" else {}
        entry = object()
        try:
            assert registry.add("of_a_test", **more)(entry) is entry
            assert registry["of_a_test"] is entry
            with pytest.raises(registry.error, match="'of_a_test' exists already; choose another"):
                registry.add("of_a_test", **more)
        finally:
            del registry["of_a_test"]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
