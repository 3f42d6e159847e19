"""The roofline: the fastest copy of as many bytes as the op moves, with the same threads, in the same run.

Each copy writes into an allocated buffer:

``numpy``    one ``numpy.copyto``, the fastest for data that fit into a cache
``threads``  ``numpy.copyto`` of one part per Python thread
``memcpy``   ``memcpy`` by blocks on OpenMP threads (``dropout`` with ``p=0``)
``stream``   a multiplication by 1 on OpenMP threads, with non-temporal stores for large arrays (``l2_gradient``)
``torch``    ``Tensor.copy_``, if PyTorch is installed

Below 1 MiB, where waking a thread takes longer than the copy, only ``numpy`` and ``torch`` are used.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import functional
from cregkit.benchmark.timing import Contestant
from cregkit.kernels import _threads

THREADED_BYTES = 1 << 20


def copies(n_bytes: int, n_threads: int, torch: Any = None) -> dict[str, Contestant]:
    """Return every copy that moves ``n_bytes``, half of them read, half written; ``torch`` is the module or None."""
    x = np.ones(max(1, n_bytes // 8), np.float32)
    return copies_between(x, np.full_like(x, 2.0), n_threads, torch)  # filled: every page is mapped


def copies_between(
    x: NDArray[np.float32], y: NDArray[np.float32], n_threads: int, torch: Any = None
) -> dict[str, Contestant]:
    """Return every copy of the flat ``x`` into ``y``."""
    threads = partial(_threads.set_num_threads, n_threads)
    contestants = {"numpy": Contestant(lambda: np.copyto(y, x))}
    if torch is not None:
        torch.set_num_threads(n_threads)
        source, target = torch.from_numpy(x), torch.from_numpy(y)
        contestants["torch"] = Contestant(lambda: target.copy_(source))
    if x.nbytes + y.nbytes >= THREADED_BYTES:
        contestants["memcpy"] = Contestant(lambda: functional.dropout(x, 0.0, seed=0, out=y), setup=threads)
        contestants["stream"] = Contestant(lambda: functional.l2_gradient(x, 1.0, out=y), setup=threads)
        contestants["threads"] = Contestant(_threaded(x, y, n_threads), pool="python")
    return contestants


def _threaded(x: NDArray[Any], y: NDArray[Any], n_threads: int) -> Callable[[], None]:
    """Return a copy by parts; the calling thread copies the first."""
    parts = list(zip(np.array_split(y, n_threads), np.array_split(x, n_threads), strict=True))
    executor = ThreadPoolExecutor(n_threads)

    def copy() -> None:
        others = [executor.submit(np.copyto, *part) for part in parts[1:]]
        np.copyto(*parts[0])
        wait(others)

    return copy
