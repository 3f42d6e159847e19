"""Detect a forked process, in which OpenMP's threads are lost.

``import cregkit`` loads this module to record the process. The kernels are loaded later, possibly in a child.
"""

from __future__ import annotations

import os
from pathlib import Path

PF_FORKNOEXEC = 0x40  # include/linux/sched.h: forked, no exec since


def forked_beside_openmp(root: Path = Path("/")) -> bool:
    """Whether this process was forked and has libgomp loaded; False without Linux's ``/proc``."""
    try:
        fields = (root / "proc/self/stat").read_bytes().rpartition(b")")[2].split()
        forked = int(fields[6]) & PF_FORKNOEXEC
        return bool(forked) and b"/libgomp" in (root / "proc/self/maps").read_bytes()
    except (OSError, ValueError, IndexError):
        return False


_PROCESS = os.getpid()
_FORKED_BEFORE = forked_beside_openmp()


def is_forked() -> bool:
    """Whether this process is a forked child in which OpenMP's threads may be lost.

    OpenMP's threads do not survive a fork, and a parallel loop in the child would wait for them forever. All libraries
    of a process, PyTorch included, share these threads. If a forked child had libgomp loaded when it imported cregkit,
    it is unknown whether its parent had used OpenMP; the threads then count as lost.

    Returns
    -------
    bool
        True in a child of a process that had imported cregkit or may have used OpenMP.
    """
    return _FORKED_BEFORE or os.getpid() != _PROCESS
