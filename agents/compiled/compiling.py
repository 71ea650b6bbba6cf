"""Compiling a C file for this processor, once.

What is compiled is kept in the cache, in a folder of the user's own, under a name that tells the
source, the compiler and the processor. It runs on PyTorch's own threads, so the compiler must be
GCC: others bring threads of their own, which would fight PyTorch's for the cores.
``POPULORA_NATIVE=0`` switches it off.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from agents.plain_files import cache_folder, whole_file

# Where the processor is said to be slow at chains of fused products (Zen 2 to 4, Alder Lake), GCC
# fuses some and not others, and a row's last bits depend on how many are taken with it.
_FLAGS = ("-O3", "-march=native", "--param=avoid-fma-max-bits=0", "-fopenmp", "-fPIC", "-shared")
_CHECKSUM = hashlib.sha256().digest_size
_SECONDS = 60  # the compiler may take


_log = logging.getLogger(__name__)
T = TypeVar("T")


class NativeError(RuntimeError):
    """Why nothing can be compiled on this machine, or what was compiled is of no use."""


def load(source: Path, symbols: Sequence[str] = ()) -> tuple[ctypes.CDLL, str]:
    """Compile a file, or find what was compiled of it before, and load it.

    Args:
        source: The C file.
        symbols: Names that the library must hold; one without them is compiled again.

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
    folders = dict.fromkeys((Path(__file__).parent, source.parent))
    headers = [file.read_bytes() for own in folders for file in sorted(own.glob("*.h"))]
    parts = [source.read_bytes(), *headers, macros.encode(), " ".join(_FLAGS).encode()]
    name = f"{source.stem}-{hashlib.sha256(bytes(1).join(parts)).hexdigest()[:16]}.so"
    library, own = None, f"native-{os.geteuid()}"
    try:
        target = cache_folder() / own / name
        if not _is_usable(target, symbols):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_ours(target.parent, stat.S_ISDIR):
                target.unlink(missing_ok=True)
                _compile(command, source, target)
        if _is_usable(target, symbols):
            library = ctypes.CDLL(str(target))
    except NativeError:
        with contextlib.suppress(OSError, RuntimeError):
            (cache_folder() / own).rmdir()
        raise
    except (OSError, RuntimeError):  # pathlib's RuntimeError tells that there is no home
        pass
    if library is None:  # no home, or a folder that is read-only, full, not ours, not for programs
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / name
            _compile(command, source, target)
            library = ctypes.CDLL(str(target))
    return library, _version(macros)


def build(source: Path, symbols: Sequence[str], make: Callable[[ctypes.CDLL, str], T]) -> T:
    """Load what is compiled of a file, and make of it what calls it.

    Args:
        source: The C file.
        symbols: Names that the library must hold.
        make: Takes the library and what compiled it; see `load`.

    Raises:
        NativeError: As `load` raises it, or if a part is missing.
        OSError: If files cannot be written or loaded.
        subprocess.SubprocessError: If the compiler takes too long.
    """
    library, compiler = load(source, symbols)
    try:
        return make(library, compiler)
    except (AttributeError, ValueError) as error:
        raise NativeError(f"what was compiled lacks a part ({error})") from error


def or_none(made: Callable[[], T], without: str) -> T | None:
    """What is compiled, or None where it cannot be had, which is said in the log.

    Args:
        made: Compiles it.
        without: What is done without it.
    """
    try:
        return made()
    except (NativeError, OSError, subprocess.SubprocessError, UnicodeError) as error:
        _log.info("no compiled code (%s); %s", error, without)
        return None


def _version(macros: str) -> str:
    """What compiled it, such as ``GCC 12.2.0``; ``GCC`` if it does not say."""
    found = re.search(r'^#define __VERSION__ "([^"\n]*)"', macros, re.MULTILINE)
    return f"GCC {found[1]}" if found else "GCC"


def _is_ours(path: Path, kind: Callable[[int], bool]) -> bool:
    """Whether it is of this kind, this user's own, and writable by nobody else."""
    entry = path.lstat()
    others = entry.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return kind(entry.st_mode) and entry.st_uid == os.geteuid() and not others


def _is_usable(target: Path, symbols: Sequence[str]) -> bool:
    """Whether a library in the cache is nobody else's, whole, and holds the symbols.

    It ends with its own checksum: one cut short would end the process when it is loaded.
    """
    try:
        if not (_is_ours(target.parent, stat.S_ISDIR) and _is_ours(target, stat.S_ISREG)):
            return False
        kept = target.read_bytes()
    except OSError:
        return False
    data, checksum = kept[:-_CHECKSUM], kept[-_CHECKSUM:]
    whole = checksum == hashlib.sha256(data).digest()
    return whole and all(symbol.encode() in data for symbol in symbols)


def _compiler() -> tuple[list[str], str]:
    """The command of the first GCC found, and the macros it defines for this processor."""
    for named in (os.environ.get("CC", ""), "gcc", "cc"):
        try:
            command = shlex.split(named)
        except ValueError:  # a quotation that does not end
            continue
        if not command or not shutil.which(command[0]):
            continue
        asked = [*command, *_FLAGS, "-dM", "-E", "-x", "c", os.devnull]
        try:
            said = subprocess.run(
                asked, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                encoding="utf-8", errors="replace", timeout=_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, ValueError, subprocess.SubprocessError):  # no program, or one that hangs
            continue
        macros = said.stdout
        if said.returncode == 0 and "__GNUC__" in macros and "__clang__" not in macros:
            return command, macros
    raise NativeError("no GCC that knows -march=native and -fopenmp")


def _compile(command: Sequence[str], source: Path, target: Path) -> None:
    """Compile to a file beside the target, add its checksum, then rename it: found, it is whole."""
    with whole_file(target, shared=True) as made:
        done = subprocess.run(
            [*command, *_FLAGS, "-o", str(made), str(source)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8",
            errors="replace", timeout=_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise NativeError(f"{command[0]} failed: {done.stderr.strip()[:500]}")
        with made.open("ab") as file:  # loaders do not look behind a library's end
            file.write(hashlib.sha256(made.read_bytes()).digest())
        made.chmod(0o700)
