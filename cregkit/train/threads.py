"""One thread for small networks: the same bits on any machine, and no wait for threads."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cregkit.kernels._threads import num_threads

_LOCK = threading.Lock()
if hasattr(os, "register_at_fork"):  # no child starts with a lock that nobody releases
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)
_users = 0
_limits: Any = None


@functools.cache
def _blas() -> Any:
    """Return threadpoolctl's controller of the loaded BLAS libraries, or None if threadpoolctl is not installed."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, including BLAS if threadpoolctl is installed (scikit-learn depends on it).

    A matrix product of several BLAS threads may round otherwise than that of one. On a busy machine, waiting for
    threads makes a step of a small network many times slower. BLAS has one setting for the process: it is restored when
    the last block ends, in whatever order the blocks of several threads end.
    """
    _enter()
    try:
        with num_threads(1):
            yield
    finally:
        _leave()


def _enter() -> None:
    global _users, _limits
    with _LOCK:
        if not _users and (blas := _blas()) is not None:
            _limits = blas.limit(limits=1, user_api="blas")
        _users += 1


def _leave() -> None:
    global _users, _limits
    with _LOCK:
        _users -= 1
        if not _users and _limits is not None:
            _limits.restore_original_limits()
            _limits = None
