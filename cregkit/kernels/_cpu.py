"""What this machine grants the process: threads, by CPU affinity, cgroup quota, being a worker process and
OMP_NUM_THREADS; and the size of the last cache."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path


def affinity() -> int:
    """CPUs the scheduler lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(root: Path = Path("/")) -> float:
    """CPUs' worth of time the process's control group grants (v2 or v1), infinite without a limit."""
    quotas = [_quota_v2(root), _quota_v1(root)]
    return min(quotas)


def _quota_v2(root: Path) -> float:
    """The smallest cpu.max from the process's group up to the top: a limit on any of them holds."""
    mount = root / "sys/fs/cgroup"
    quota = math.inf
    folder = mount / _own_group(root, "0::")
    while True:
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]) > 0:
            quota = min(quota, int(words[0]) / int(words[1]))
        if folder == mount or mount not in folder.parents:
            return quota
        folder = folder.parent


def _quota_v1(root: Path) -> float:
    for controller in ("cpu", "cpu,cpuacct"):
        mount = root / "sys/fs/cgroup" / controller
        for folder in (mount / _own_group(root, f":{controller}:"), mount):
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
            if quota.isdigit() and period.isdigit() and int(period) > 0:
                return int(quota) / int(period)
    return math.inf


def _own_group(root: Path, marker: str) -> str:
    """Path of the process's group within its hierarchy, "" at the top or when unknown."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        if marker in line:
            return line.split(":", 2)[2].strip("/")
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def is_worker() -> bool:
    """Whether multiprocessing started this process: beside others, as a rule, which share its processors."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.current_process().name != "MainProcess"


def available_cpus(root: Path = Path("/")) -> tuple[int, str]:
    """The default number of threads and where it came from."""
    count, origin = affinity(), "CPU affinity"
    quota = cgroup_quota(root)
    if quota < count:
        count, origin = max(1, math.ceil(quota)), "cgroup CPU quota"
    if is_worker():
        count, origin = 1, "worker process of multiprocessing"
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdigit() and int(wanted) > 0:
        count, origin = min(int(wanted), 4096), "OMP_NUM_THREADS"
    return count, origin


def last_cache_bytes(root: Path = Path("/")) -> int:
    """Bytes of the largest cache that the first CPU can reach, 0 where the system does not tell.

    From Linux, which tells the part that a CPU shares with its neighbours: ``sysconf`` of the C library adds up a whole
    socket's on some CPUs, of which a thread never uses more than its part.
    """
    sizes = (_read(cache / "size") for cache in root.glob("sys/devices/system/cpu/cpu0/cache/index*"))
    return max((_bytes_of(size) for size in sizes), default=0)


def _bytes_of(size: str) -> int:
    """Of "32768K"."""
    number, unit = size[:-1], size[-1:]
    return int(number) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[unit] if number.isdigit() and unit in "KMG" else 0
