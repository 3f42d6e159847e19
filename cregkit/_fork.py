"""Whether OpenMP's threads may be lost to this process.

Loaded by ``import cregkit``: the kernels are loaded later, maybe in a child of this process.
"""

from __future__ import annotations

import os
from pathlib import Path

PF_FORKNOEXEC = 0x40  # include/linux/sched.h: forked, and no new program started since


def forked_beside_openmp(root: Path = Path("/")) -> bool:
    """Whether this process was forked and has GNU's OpenMP runtime loaded. Without Linux's ``/proc``: False."""
    try:
        fields = (root / "proc/self/stat").read_bytes().rpartition(b")")[2].split()
        forked = int(fields[6]) & PF_FORKNOEXEC
        return bool(forked) and b"/libgomp" in (root / "proc/self/maps").read_bytes()
    except (OSError, ValueError, IndexError):
        return False


_PROCESS = os.getpid()
_FORKED_BEFORE = forked_beside_openmp()


def is_forked() -> bool:
    """Whether this process was forked by one that had imported cregkit, or had maybe computed with OpenMP.

    OpenMP's threads do not survive a fork, and a parallel loop in the child would wait for them for ever. They may be
    PyTorch's: the runtime has one set of threads for all libraries. Where a child had loaded the runtime when it
    imported cregkit, nothing tells whether its parent had, too; then the threads count as lost.
    """
    return _FORKED_BEFORE or os.getpid() != _PROCESS
