"""How far the norms are from the limit of memory.

Each op runs in turn with a kernel that has its loads and stores and hardly any arithmetic (access_limits.c, compiled
with `cc`), and with a copy of one tensor; on one thread. 0.9 in the column "of limit": the kernel takes 0.9 of the
op's time. x86-64 only.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import cregkit as ck
from cregkit.benchmark.timing import Contestant, measure

SOURCE = Path(__file__).with_name("access_limits.c")
ROWS = ((96, 512), (512, 768), (4096, 1024), (5000, 6144), (20000, 32))
GROUPS = ((2, 320, 64, 64), (8, 256, 32, 32), (2, 1280, 8, 8))
COLUMNS = ((512, 768), (4096, 1024), (5000, 6144))
NUM_GROUPS = 32


@dataclass(frozen=True)
class Access:
    """An op on a shape, and the pattern in which it reads and writes."""

    op: str
    shape: tuple[int, ...]
    pattern: str
    rows: int
    call: partial[Any]
    arrays: tuple[Any, ...]
    """x, dy (None in forward) and the output."""

    def kernel(self, library: ctypes.CDLL) -> partial[Any]:
        """Return the call of the kernel."""
        x, *_ = self.arrays
        bytes_of_all = x.nbytes * sum(array is not None for array in self.arrays)
        pointers = [None if array is None else array.ctypes.data for array in self.arrays]
        sizes = (self.rows, x.size // self.rows)
        return partial(
            getattr(library, self.pattern),
            *map(ctypes.c_void_p, pointers),
            *map(ctypes.c_ssize_t, sizes),
            int(bytes_of_all >= ck.show_config()["streams_from"]),
        )


def accesses() -> Iterator[Access]:
    """Yield the ops, forward and backward."""
    for shape in ROWS:
        yield from pair("layer_norm", shape, "by_rows", shape[0])
    for shape in GROUPS:
        yield from pair("group_norm", shape, "by_rows", shape[0] * NUM_GROUPS, num_groups=NUM_GROUPS)
    for shape in COLUMNS:
        yield from pair("batch_norm", shape, "by_columns", shape[0])


def pair(op: str, shape: tuple[int, ...], pattern: str, rows: int, **options: Any) -> Iterator[Access]:
    """Yield forward and backward of an op with gain and bias."""
    random = np.random.default_rng(0)
    x, dy = (random.standard_normal(shape, np.float32) for _ in range(2))
    out, gain = np.zeros_like(x), np.ones(shape[1], np.float32)
    forward = partial(getattr(ck, f"{op}_forward"), x, gamma=gain, beta=gain, out=out, **options)
    backward = partial(getattr(ck, f"{op}_backward"), dy, x, *forward()[1:3], gamma=gain, out=out)
    yield Access(f"{op}_forward", shape, pattern, rows, forward, (x, None, out))
    yield Access(f"{op}_backward", shape, pattern, rows, backward, (x, dy, out))


def compiled(folder: str) -> ctypes.CDLL:
    """Compile the kernels for this CPU."""
    library = Path(folder) / "access_limits.so"
    flags = ("-O3", "-march=native", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run(["cc", *flags, "-o", str(library), str(SOURCE)], check=True)
    return ctypes.CDLL(str(library))


def main() -> None:
    """Print a line for each op and shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds per line (default: %(default)s)")
    seconds = parser.parse_args().seconds
    ck.set_num_threads(1)
    print(f"{'op':22} {'shape':18} {'op, ns':>8} {'kernel':>8} {'copy':>8} {'of limit':>9}   (ns per element)")
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(folder)
        for access in accesses():
            x, _, out = access.arrays
            contestants = {
                "op": Contestant(access.call),
                "kernel": Contestant(access.kernel(library)),
                "copy": Contestant(partial(np.copyto, out, x)),
            }
            times = {name: found.quartile for name, found in measure(contestants, seconds).items()}
            ns = [1e9 * time / x.size for time in times.values()]
            shape = "x".join(map(str, access.shape))
            print(f"{access.op:22} {shape:18} {ns[0]:8.3f} {ns[1]:8.3f} {ns[2]:8.3f} {ns[1] / ns[0]:9.2f}", flush=True)


if __name__ == "__main__":
    main()
