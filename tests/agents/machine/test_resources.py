"""What this process may take of a machine, as control groups tell it."""

import pytest
import torch

from agents.engine.kv_cache import free_memory
from agents.machine import resources


@pytest.fixture
def files(monkeypatch):
    """What the system's files say, by path; those not named are not there."""
    said: dict[str, str] = {}
    monkeypatch.setattr(resources, "_text", lambda path: said.get(path.as_posix(), ""))
    return said


def test_control_groups_bound_cores_and_memory(files, monkeypatch):
    files |= {
        "/proc/self/cgroup": "0::/box/inner\n",
        "/sys/fs/cgroup/box/inner/cpu.max": "max 100000\n",
        "/sys/fs/cgroup/box/cpu.max": "150000 100000\n",
        "/sys/fs/cgroup/box/inner/memory.max": "max\n",
        "/sys/fs/cgroup/box/memory.max": f"{3 << 30}\n",
        "/sys/fs/cgroup/box/memory.current": f"{2 << 30}\n",
        "/sys/fs/cgroup/box/memory.stat": f"anon 1\ninactive_file {1 << 30}\n",
        "/sys/fs/cgroup/box/inner/memory.current": f"{1 << 29}\n",
        "/proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n",
    }
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert resources.cores().quota == resources.cores().usable == 1.5
    assert resources.memory() == resources.Memory(8 << 30, 3 << 30, 2 << 30)
    assert free_memory(torch.device("cpu")) == 2 << 30


def test_control_groups_of_version_1(files):
    files |= {
        "/proc/self/cgroup": "4:memory:/box\n1:cpu,cpuacct:/box\n",
        "/sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "-1\n",
        "/sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "/sys/fs/cgroup/memory/box/memory.limit_in_bytes": "9223372036854771712\n",
        "/proc/meminfo": "MemTotal: 8388608 kB\n",
    }
    assert resources.cores().quota == 0.5
    assert resources.memory() == resources.Memory(8 << 30, None, None)
    files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = f"{2 << 30}"
    files["/sys/fs/cgroup/memory/memory.usage_in_bytes"] = f"{1 << 30}"
    files["/sys/fs/cgroup/memory/memory.stat"] = "cache 5\ntotal_inactive_file 1024"
    assert resources.memory() == resources.Memory(8 << 30, 2 << 30, (1 << 30) + 1024)


def test_a_group_that_holds_more_than_its_limit_leaves_nothing(files):
    files |= {
        "/proc/self/cgroup": "0::/\n",
        "/sys/fs/cgroup/memory.max": "1000",
        "/sys/fs/cgroup/memory.current": "1200",
    }
    assert resources.memory().free == 0


def test_a_silent_system_tells_nothing(files):
    assert resources.memory().limit is resources.memory().free is resources.cores().quota is None
    assert resources.instructions() == ()
    assert resources.resident() == 0


def test_what_this_process_holds_is_more_than_nothing():
    assert resources.resident() > 10 << 20
