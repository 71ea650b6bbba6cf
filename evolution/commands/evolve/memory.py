"""The most memory that a run held."""

import sys
from pathlib import Path

import torch

from agents.machine.resources import sizes

_STATUS = Path("/proc/self/status")
_MIB = 2**20


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most that was held at once since the process began, in MiB.

    Args:
        device: Of the base.

    Returns:
        Under ``process`` what was resident, nothing where the system does not tell; under ``gpu``
        what PyTorch's tensors took on the base's GPU, if it is on one. Workers on other machines
        are not counted.
    """
    found: dict[str, float] = {}
    if (held := _resident()) is not None:
        found["process"] = round(held / _MIB, 1)
    if device.type == "cuda":
        found["gpu"] = round(torch.cuda.max_memory_allocated(device) / _MIB, 1)
    return found


def memory_words(peaks: dict[str, float]) -> str:
    """A line on these peaks; empty if there are none."""
    names = {"process": "", "gpu": " on the GPU"}
    said = [f"{peaks[name]:,.0f} MiB{where}" for name, where in names.items() if name in peaks]
    return "Memory at most: " + ", ".join(said) if said else ""


def _resident() -> int | None:
    """Bytes; None where the system does not tell."""
    # Linux; what getrusage says there begins with what the parent process held.
    if (peak := sizes(_STATUS).get("VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
