"""Settings from files: TOML files, the presets that ship with the package, and saved runs."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

from evolution.config import RunConfig
from evolution.errors import ConfigError
from populora_env.settings import did_you_mean


def presets() -> list[str]:
    """Names of the presets that ship with the package."""
    folder = resources.files("evolution") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name[-5:] == ".toml")


def read_preset(name: str) -> RunConfig:
    """Read a preset.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in presets():
        raise ConfigError(
            f"preset: got {name!r}, expected one of {', '.join(presets())}"
            f"{did_you_mean(name, presets())}"
        )
    text = (resources.files("evolution") / "presets" / f"{name}.toml").read_text()
    return from_mapping(tomllib.loads(text), f"preset {name}")


def read_toml(path: str | Path, over: RunConfig | None = None) -> RunConfig:
    """Read settings from a TOML file.

    Args:
        path: The file.
        over: What it says nothing of; by default the defaults.

    Raises:
        ConfigError: If the file is missing or no TOML, or sets a field that does not exist.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")  # as Windows may save it
        data = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"config: {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config: {path} is not valid TOML ({error})") from error
    return from_mapping(data, str(path), over)


def from_mapping(data: Mapping[str, Any], where: str, over: RunConfig | None = None) -> RunConfig:
    """Settings from names and values, the rest as in others or by default.

    Raises:
        ConfigError: If a name is unknown or a value out of range.
    """
    known = {field.name for field in fields(RunConfig)}
    if unknown := sorted(set(data) - known):
        raise ConfigError(
            f"{where}: unknown setting {unknown[0]!r}{did_you_mean(unknown[0], known)}; expected "
            f"some of {', '.join(sorted(known))}"
        )
    typed = dict(data)
    if isinstance(targets := typed.get("targets"), list):  # as TOML writes several
        typed["targets"] = "+".join(str(target) for target in cast(list[object], targets))
    return replace(over or RunConfig(), **typed)
