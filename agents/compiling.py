"""Compiling a C file for this processor, once.

What is compiled is kept in the cache folder under a name that tells the source, the compiler and
the processor. It runs on PyTorch's own threads, so the compiler must be GCC: others bring threads
of their own, which would fight PyTorch's for the cores. ``POPULORA_NATIVE=0`` switches it off.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agents.models import cache_folder

_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
_SECONDS = 60  # the compiler may take


class NativeError(RuntimeError):
    """Why nothing can be compiled on this machine, or what was compiled is of no use."""


def load(source: Path) -> tuple[ctypes.CDLL, str]:
    """Compile a file, or find what was compiled of it before, and load it.

    Returns:
        The library, and what compiled it, such as ``GCC 12.2.0``.

    Raises:
        NativeError: If it is switched off, there is no GCC, or it fails.
        OSError: If files cannot be written or loaded.
        subprocess.SubprocessError: If the compiler takes too long.
    """
    if os.environ.get("POPULORA_NATIVE", "1") == "0":
        raise NativeError("POPULORA_NATIVE is 0")
    if sys.platform != "linux":
        raise NativeError(f"not on {sys.platform}")
    command, macros = _compiler()
    # The macros tell the compiler's version and what this processor can do: another processor that
    # shares the cache folder gets a file of its own.
    parts = [source.read_bytes(), macros.encode(), " ".join(_FLAGS).encode()]
    name = f"{source.stem}-{hashlib.sha256(bytes(1).join(parts)).hexdigest()[:16]}.so"
    try:
        target = cache_folder() / name
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            _compile(command, source, target)
        library = ctypes.CDLL(str(target))
    except OSError:  # a folder that is read-only, full, or not for programs
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / name
            _compile(command, source, target)
            library = ctypes.CDLL(str(target))
    version = next(line for line in macros.splitlines() if " __VERSION__ " in line)
    return library, "GCC " + version.split(maxsplit=2)[2].strip('"')


def _compiler() -> tuple[list[str], str]:
    """The command of the first GCC found, and the macros it defines for this processor."""
    for named in (os.environ.get("CC", ""), "gcc", "cc"):
        command = shlex.split(named)
        if not command or not shutil.which(command[0]):
            continue
        asked = [*command, *_FLAGS, "-dM", "-E", "-x", "c", os.devnull]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=_SECONDS, check=False)
        macros = said.stdout
        if said.returncode == 0 and "__GNUC__" in macros and "__clang__" not in macros:
            return command, macros
    raise NativeError("no GCC that knows -march=native and -fopenmp")


def _compile(command: Sequence[str], source: Path, target: Path) -> None:
    """Compile to a file beside the target, then rename it: who comes upon it finds it whole."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        done = subprocess.run(
            [*command, *_FLAGS, "-o", str(made), str(source)],
            capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise NativeError(f"{command[0]} failed: {done.stderr.strip()[:500]}")
        os.replace(made, target)
