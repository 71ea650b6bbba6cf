"""What there is of a machine: cores and memory that this process may use, instructions, GPUs.

Nothing here needs torch. What a system does not tell is None or empty.
"""

import contextlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # bytes; control groups of version 1 say that nothing limits by such numbers
# Flags of /proc/cpuinfo on x86 and ARM to the names that people use.
_INSTRUCTIONS = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX-512 BF16", "amx_tile": "AMX", "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16", "asimd": "NEON", "asimddp": "dot products", "i8mm": "I8MM",
    "bf16": "BF16", "sve": "SVE",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cores:
    """Processors.

    Attributes:
        total: In the machine.
        allowed: Those that this process may run on.
        quota: Processors' worth of time that its control group may take; None for no limit.
    """

    total: int
    allowed: int
    quota: float | None

    @property
    def usable(self) -> float:
        """Processors' worth of time that this process can have."""
        return self.allowed if self.quota is None else min(self.allowed, self.quota)

    @property
    def is_short(self) -> bool:
        """Whether more threads are started than can work at once, if nobody says how many."""
        return self.usable < self.allowed

    @property
    def threads(self) -> int:
        """How many threads can work at once, at least 1."""
        return max(1, int(self.usable))


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory; None where the system does not tell.

    Attributes:
        total: In the machine.
        limit: That the control group may hold; None also for no limit.
        free: That this process could still take.
    """

    total: int | None
    limit: int | None
    free: int | None


def cores() -> Cores:
    """The processors that there are, and those that this process may use."""
    total = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    quotas: list[float] = []
    for group in _groups("cpu"):
        if group.version == 2:  # "200000 100000", or "max 100000"
            quota, _, period = group.says("cpu.max").partition(" ")
        else:
            quota, period = group.says("cpu.cfs_quota_us"), group.says("cpu.cfs_period_us")
        quotas += [int(quota) / int(period)] if quota.isdigit() and period.isdigit() else []
    return Cores(total, allowed, min(quotas, default=None))


def memory() -> Memory:
    """The memory that there is, and what this process may take of it."""
    told = sizes(Path("/proc/meminfo"))
    total, free = told.get("MemTotal"), told.get("MemAvailable")
    if total is None and hasattr(os, "sysconf"):
        with contextlib.suppress(ValueError, OSError):
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits: list[int] = []
    for group in _groups("memory"):
        says = group.says("memory.max", "memory.limit_in_bytes")
        limit = int(says) if says.isdigit() else _UNLIMITED
        if limit >= min(_UNLIMITED, total or _UNLIMITED):
            continue
        limits.append(limit)
        left = max(0, limit - _held(group))
        free = left if free is None else min(free, left)
    return Memory(total, min(limits, default=None), free)


def resident() -> int:
    """Bytes that this process holds now; 0 where the system does not tell."""
    return sizes(Path("/proc/self/status")).get("VmRSS", 0)


def sizes(file: Path) -> dict[str, int]:
    """Bytes by name, of a file of the system's with lines such as ``VmRSS: 12 kB``."""
    told: dict[str, int] = {}
    for line in _text(file).splitlines():
        name, _, value = line.partition(":")
        with contextlib.suppress(ValueError, IndexError):
            told[name] = 1024 * int(value.split()[0])
    return told


def instructions() -> tuple[str, ...]:
    """Names of the instruction sets that matter for products; empty where the system is silent."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags = set(value.split())
            return tuple(shown for flag, shown in _INSTRUCTIONS.items() if flag in flags)
    return ()


def processor() -> str:
    """The processor's name."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def nvidia_gpus() -> tuple[str, ...]:
    """Names of NVIDIA GPUs as their driver tells them, without torch."""
    if not shutil.which("nvidia-smi"):
        return ()
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=20,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    lines = [line.strip() for line in said.stdout.splitlines() if line.strip()]
    return tuple(lines) if said.returncode == 0 else ()


@dataclass(frozen=True, slots=True)
class _Group:
    """A control group that this process is in.

    Attributes:
        version: Of control groups, 1 or 2.
        folder: Where its files are.
    """

    version: int
    folder: Path

    def says(self, file: str, old: str = "") -> str:
        """What a file of it says, which version 1 may call `old`; empty where there is none."""
        return _text(self.folder / (old if old and self.version == 1 else file)).strip()


def _groups(controller: str) -> list[_Group]:
    """This process's control groups, its own first, then those above it.

    In a container the path may be the host's, which is not seen there; the root is.

    Args:
        controller: Whose hierarchy it is in version 1.
    """
    found: list[_Group] = []
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        version, root = (1, _GROUPS / controller) if controllers else (2, _GROUPS)
        if version == 1 and controller not in controllers.split(","):
            continue
        own = root / path.strip("/")
        places = [own, *own.parents[: len(own.parts) - len(root.parts)]]
        found += [_Group(version, place) for place in places]
    return found


def _held(group: _Group) -> int:
    """Bytes that a control group holds and cannot give up: less the files it has lately not read.

    0 where it does not tell.
    """
    held = group.says("memory.current", "memory.usage_in_bytes")
    if not held.isdigit():
        return 0
    idle = "inactive_file" if group.version == 2 else "total_inactive_file"
    pairs = (line.partition(" ") for line in group.says("memory.stat").splitlines())
    spare = next((int(n) for name, _, n in pairs if name == idle and n.isdigit()), 0)
    return max(0, int(held) - spare)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
