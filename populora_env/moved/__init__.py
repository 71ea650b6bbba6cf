"""Module names of version 0.1: they import as before, and say their new name."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class OldNames(MetaPathFinder):
    """Finds modules by the names that they had.

    Args:
        names: The new name of each old one.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how an old name is imported; None for any other."""
        del path, target
        new = self._names.get(fullname)
        return None if new is None else ModuleSpec(fullname, _Alias(new))


class _Alias(Loader):
    def __init__(self, new: str) -> None:
        self._new = new

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make a module, which is then replaced."""

    def exec_module(self, module: ModuleType) -> None:
        """Import the module under its new name, and let the old one stand for it."""
        old = module.__name__
        warnings.warn(f"{old} is now {self._new}", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(self._new)


def into_rooms(package: str, rooms: Mapping[str, str]) -> dict[str, str]:
    """Return the new name of each old one, of modules that stood in a package itself.

    Args:
        package: Its name.
        rooms: Room of the package to the modules in it now; ``old=new`` where the name changed too.
    """
    return {
        f"{package}.{old}": f"{package}.{room}.{new or old}"
        for room, modules in rooms.items()
        for old, _, new in (module.partition("=") for module in modules.split())
    }


def names_of(package: str, module: str) -> Callable[[str], Any]:
    """Return a package's ``__getattr__`` that finds what a module of its name once held.

    Args:
        package: Whose name was a module's.
        module: Where what was in that one is now.
    """

    def find(name: str) -> Any:
        if name.startswith("_") or not hasattr(held := importlib.import_module(module), name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(f"{package}.{name} is now {module}.{name}", DeprecationWarning, stacklevel=2)
        return getattr(held, name)

    return find
