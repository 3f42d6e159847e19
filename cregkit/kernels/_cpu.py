"""What this machine grants the process: threads, by CPU affinity, cgroup quota, being a worker process and
OMP_NUM_THREADS; memory; and the size of the last cache."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def affinity() -> int:
    """CPUs the scheduler lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(root: Path = Path("/")) -> float:
    """CPUs' worth of time the process's control groups grant (v2 or v1), infinite without a limit.

    A limit on any group holds for all below it.
    """
    quotas = [math.inf]
    for group in _groups(root, "cpu"):
        v1 = [_read(group / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        words = _read(group / "cpu.max").split() or v1
        if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas)


def memory_bytes(root: Path = Path("/")) -> int:
    """Bytes of memory the process may use: the machine's, or less where a control group (v2 or v1) allows less.

    ``memory.high`` counts as a limit: beyond it the system slows the group down to take memory back.
    """
    limits = [
        int(limit)
        for group in _groups(root, "memory")
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes")
        if (limit := _read(group / name)).isdecimal()
    ]
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits])


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the process's control groups, each from its own up to the top, in v2's hierarchy and in v1's.

    In a container, whose own group may be the top that it sees, those below the top may not be there.
    """
    own = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        own.update(dict.fromkeys(controllers.split(","), path.strip("/")))  # v2 names no controller: ""
    top = root / "sys/fs/cgroup"
    mounts = {top: "", top / "unified": ""}
    mounts |= {folder: controller for folder in top.glob(f"*{controller}*") if controller in folder.name.split(",")}
    for mount, name in mounts.items():
        words = own.get(name, "").split("/")
        for depth in range(len(words), -1, -1):
            yield mount.joinpath(*words[:depth])


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
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
    if wanted.isdecimal() and int(wanted) > 0:
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
