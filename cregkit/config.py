"""Configuration of the installed library: version, instruction sets, OpenMP, threads."""

from __future__ import annotations

import platform
from typing import Any

from cregkit._version import __version__
from cregkit.kernels import _pool, _runtime, _threads


def show_config() -> dict[str, Any]:
    """Return the configuration of the library on this machine.

    Returns
    -------
    version : str
        Version of cregkit.
    cpu : str
        Name of the CPU.
    isa : str
        Instruction set in use.
    isa_available : list of str
        Instruction sets that the CPU supports, best first.
    openmp : str or None
        File of the OpenMP runtime that runs the threads; None where there is none.
    threads : int
        Maximum number of threads of a call.
    threads_from : str
        Origin of that number: a setting, a limit, or a fork.
    thread_choice : dict
        ``loops``: number of parallel loops large enough for several threads. ``fewer``: number of those that used fewer
        threads than the maximum. ``because``: reason of the latest reduction, either other processes on the CPUs or the
        cost of waking threads. ``now``: current number of threads by size of the loop, for sizes that use fewer; the
        key 65536 stands for loops of 65536 to 131071 elements.
    pool : dict
        Memory pool of large outputs: bytes held, limit in bytes (``CREGKIT_POOL_MB``), number of hits and misses.
    last_cache : int
        Bytes of the last-level cache; 0 if unknown.
    streams_from : int
        Bytes of total traffic from which a call writes its outputs with non-temporal stores.

    Examples
    --------
    >>> import cregkit
    >>> config = cregkit.show_config()
    >>> config["version"] == cregkit.__version__
    True
    >>> config["isa"] in config["isa_available"]
    True
    """
    return {
        "version": __version__,
        "cpu": _runtime.cpu_name() or platform.processor() or platform.machine(),
        "isa": _runtime.current_isa(),
        "isa_available": _runtime.available_isas(),
        "openmp": _threads.openmp_runtime(),
        "threads": _threads.get_num_threads(),
        "threads_from": _threads.threads_origin(),
        "thread_choice": _threads.thread_choice(),
        "pool": _pool.pool_statistics(),
        "last_cache": _runtime.LAST_CACHE_BYTES,
        "streams_from": _runtime.STREAM_BYTES,
    }


def machine_line() -> str:
    """Return a line with version, CPU, instruction set and threads."""
    config = show_config()
    return (
        f"cregkit {config['version']} on {config['cpu']}: {config['isa']} code, "
        f"{config['threads']} {'thread' if config['threads'] == 1 else 'threads'} ({config['threads_from']})"
    )
