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
_numbers: list[int] = []


@functools.cache
def _libraries() -> list[Any]:
    """Return threadpoolctl's controllers of the loaded BLAS libraries; none if threadpoolctl is not installed."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries


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
    global _users, _numbers
    with _LOCK:
        if not _users:
            _numbers = [library.num_threads for library in _libraries()]
        _users += 1
        for library in _libraries():  # again in each thread: OpenMP's setting belongs to the thread
            _set(library, 1)


def _leave() -> None:
    global _users
    with _LOCK:
        _users -= 1
        for library, number in zip(_libraries(), _numbers, strict=True):
            if not _users or library.info().get("threading_layer") == "openmp":
                _set(library, number)


def _set(library: Any, number: int) -> None:
    """Set the number of threads; the public method ignores all threads but the first that limited BLAS."""
    getattr(library, "_real_set_num_threads", library.set_num_threads)(number)
