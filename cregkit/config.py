"""What this installation runs on: version, instruction sets, OpenMP, threads."""

from __future__ import annotations

import platform
from typing import Any

from cregkit._version import __version__
from cregkit.kernels import _pool, _runtime, _threads


def show_config() -> dict[str, Any]:
    """Describe the library on this machine.

    Returns:
        A dict with ``version``; ``cpu``; ``isa``, the instruction set in use, and ``isa_available``, best first;
        ``openmp``, the OpenMP specification of the build (None: built without); ``threads`` a large call uses, and
        ``threads_from``, what set that number (in a forked child it is 1, because of the fork); ``thread_choice``:
        parallel ``loops`` worth several threads; how many of them took ``fewer`` than they might have; ``because`` of
        what the last ones began to (other processes keep the CPUs busy, or waking threads costs more than they gain);
        ``now``, the threads that loops take at present, for each size that takes fewer (a key of 65536 stands for loops
        of 65536 to 131071 elements);
        ``pool``, the recycled memory that large outputs come from: bytes held and allowed (``CREGKIT_POOL_MB``), how
        often there was a block to recycle and how often not; ``last_cache``, the bytes of the largest cache that a CPU
        reaches (0: unknown), and ``streams_from``, the bytes of a call's arrays from which its outputs are written
        around that cache.

    Examples
    --------
    >>> import cregkit as ck
    >>> config = ck.show_config()
    >>> config["isa"] in config["isa_available"]
    True
    """
    version = _threads.openmp_version()
    return {
        "version": __version__,
        "cpu": _runtime.cpu_name() or platform.processor() or platform.machine(),
        "isa": _runtime.current_isa(),
        "isa_available": _runtime.available_isas(),
        "openmp": str(version) if version else None,
        "threads": _threads.get_num_threads(),
        "threads_from": _threads.threads_origin(),
        "thread_choice": _threads.thread_choice(),
        "pool": _pool.pool_statistics(),
        "last_cache": _runtime.LAST_CACHE_BYTES,
        "streams_from": _runtime.STREAM_BYTES,
    }


def machine_line() -> str:
    """Return version, processor, instruction set and threads in a line."""
    config = show_config()
    return (
        f"cregkit {config['version']} on {config['cpu']}: {config['isa']} code, "
        f"{config['threads']} {'thread' if config['threads'] == 1 else 'threads'} ({config['threads_from']})"
    )
