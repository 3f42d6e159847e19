"""Resources of the process: number of threads, bytes of memory, size of the last-level cache."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def affinity() -> int:
    """Return the number of CPUs in the affinity mask of this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(root: Path = Path("/")) -> float:
    """Return the CPU quota of the process's control groups (v2 or v1), in CPUs; infinite without a limit.

    A limit on a group applies to all groups below it.

    Parameters
    ----------
    root
        Root of the file system.

    Returns
    -------
    float
        The smallest quota of the group and the groups above it.
    """
    quotas = [math.inf]
    for group in _groups(root, "cpu"):
        v1 = [_read(group / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        words = _read(group / "cpu.max").split() or v1
        if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas)


def memory_bytes(root: Path = Path("/")) -> int:
    """Return the bytes of memory that the process may use.

    ``memory.high`` counts as a limit: above it, the kernel throttles the group and reclaims memory.

    Parameters
    ----------
    root
        Root of the file system.

    Returns
    -------
    int
        Memory of the machine, or the smallest limit of the control groups (v2 or v1).
    """
    limits = [
        int(limit)
        for group in _groups(root, "memory")
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes")
        if (limit := _read(group / name)).isdecimal()
    ]
    return min([_physical_bytes(), *limits])


def _physical_bytes() -> int:
    """Return the bytes of memory of the machine."""
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX: its size, and at 8 bytes the physical memory
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return status[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the process's control groups, from its own group up to the root, in v2 and v1 hierarchies.

    In a container, the process's own group may be mounted as the root; folders below it may not exist then.
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
    """Whether ``multiprocessing`` started this process, which usually shares its CPUs with other workers."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.current_process().name != "MainProcess"


def available_cpus(root: Path = Path("/")) -> tuple[int, str]:
    """Return the default number of threads and its origin.

    Parameters
    ----------
    root
        Root of the file system.

    Returns
    -------
    count : int
        Number of threads, at least 1.
    origin : str
        Name of the limit or setting that determines it.
    """
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
    """Return the bytes of the last-level cache of the first CPU; 0 if the system does not report it.

    Linux reports the slice that a CPU shares with its neighbours. ``sysconf`` is not used: on some CPUs it returns the
    sum over the socket, which a single thread cannot use.

    Parameters
    ----------
    root
        Root of the file system.

    Returns
    -------
    int
        Size of the cache.
    """
    sizes = (_read(cache / "size") for cache in root.glob("sys/devices/system/cpu/cpu0/cache/index*"))
    return max((_bytes_of(size) for size in sizes), default=0)


def _bytes_of(size: str) -> int:
    """Parse a size such as "32768K"."""
    number, unit = size[:-1], size[-1:]
    return int(number) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[unit] if number.isdigit() and unit in "KMG" else 0
