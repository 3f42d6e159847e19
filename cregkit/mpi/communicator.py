"""What all of ``cregkit.mpi`` shares: the communicator, exchanges in the order of the ranks, and an end for all."""

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
    """Return the communicator to use, the world if None."""
    if comm is None:
        comm = MPI.COMM_WORLD
    if not isinstance(comm, MPI.Intracomm):
        raise TypeError(f"comm must be an mpi4py communicator such as MPI.COMM_WORLD, got {type(comm).__name__}")
    return comm


@dataclass
class Traffic:
    """What this rank has sent since the start, and the time it spent sending and waiting."""

    bytes: int = 0
    messages: int = 0
    seconds: float = 0.0

    def sent(self, n_bytes: int) -> None:
        """Count a message."""
        self.bytes += n_bytes
        self.messages += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within as communication."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


TRAFFIC = Traffic()


def gathered(comm: Comm, own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vectors of all ranks, a row each in the order of the ranks: one call of MPI_Allgather."""
    all_ranks = np.empty((comm.size, own.size))
    with TRAFFIC.waiting():
        comm.Allgather(own, all_ranks)
    TRAFFIC.sent(own.nbytes)
    return all_ranks


def abort_all_on_exception(comm: Comm) -> None:
    """Let an exception that nobody handles end all processes: the others would wait for this one for ever."""
    if comm.size == 1 or getattr(sys.excepthook, "_ends_all", False):
        return

    def end_all(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, where))
        print(f"rank {comm.rank} of {comm.size} fails, all processes end:\n{text}", file=sys.stderr, flush=True)
        comm.Abort(1)

    end_all._ends_all = True  # type: ignore[attr-defined]
    sys.excepthook = end_all
