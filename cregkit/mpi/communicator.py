"""The communicator, exchanges in rank order, traffic counters, and the abort of all processes after an error."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

try:
    from mpi4py import MPI
except ImportError as error:
    raise ImportError(f'cregkit.mpi needs mpi4py and an MPI library: pip install "cregkit[mpi]" ({error})') from error

Comm = MPI.Intracomm


def checked_comm(comm: Comm | None) -> Comm:
    """Return ``comm``, or ``MPI.COMM_WORLD`` for None; raise TypeError for anything else."""
    if comm is None:
        comm = MPI.COMM_WORLD
    if not isinstance(comm, MPI.Intracomm):
        raise TypeError(f"comm must be an mpi4py communicator such as MPI.COMM_WORLD, got {type(comm).__name__}")
    return comm


@dataclass
class Traffic:
    """Communication of this rank since the start of the process.

    Attributes
    ----------
    bytes
        Bytes sent.
    messages
        Messages sent.
    seconds
        Time spent sending and waiting.

    Examples
    --------
    >>> from cregkit.mpi import Traffic
    >>> traffic = Traffic()
    >>> traffic.sent(1024)
    >>> traffic
    Traffic(bytes=1024, messages=1, seconds=0.0)
    """

    bytes: int = 0
    messages: int = 0
    seconds: float = 0.0

    def sent(self, n_bytes: int) -> None:
        """Count one message of ``n_bytes`` bytes."""
        self.bytes += n_bytes
        self.messages += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the block as communication."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


TRAFFIC = Traffic()
"""The counters of this process."""


def gathered(comm: Comm, own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vectors of all ranks as rows in rank order, by one MPI_Allgather."""
    all_ranks = np.empty((comm.size, own.size))
    with TRAFFIC.waiting():
        comm.Allgather(own, all_ranks)
    TRAFFIC.sent(own.nbytes)
    return all_ranks


def abort_all_on_exception(comm: Comm) -> None:
    """Make an unhandled exception abort all processes, which would otherwise wait for this one forever."""
    if comm.size == 1 or getattr(sys.excepthook, "_ends_all", False):
        return

    def end_all(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, where))
        print(f"rank {comm.rank} of {comm.size} failed, aborting all processes:\n{text}", file=sys.stderr, flush=True)
        comm.Abort(1)

    end_all._ends_all = True  # type: ignore[attr-defined]
    sys.excepthook = end_all
