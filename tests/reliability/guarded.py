"""Runs every op on arrays between protected pages, which end the process when an op touches them.

``python tests/reliability/guarded.py few|all [SHIFT]`` tries a few lengths, or all up to 130 and around 256, 1024 and
4096, on every instruction set. Arrays end right before, or start right after, a protected page. Results must have the
bits of a call on ordinary arrays. Inputs are write-protected during the call, and the bytes beside arrays must keep
their values. Prints the number of calls. SHIFT moves every array by that many bytes, so that the process must end with
a fault: test_guarded.py tests this.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from support import OPS_WITH_OUT, Array, arguments_of, arrays_in, bits, each_isa, first_of, lacks_variance

from cregkit import functional
from cregkit.verify import cases
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    COLUMNS,
    ELEMENTS,
    GROUPS,
    GROUPS_LAST,
    IMAGES,
    IMAGES_LAST,
    LEADING,
    MAPS,
    MATRICES,
    PLANES,
    ROWS,
    WEIGHTS,
    Shape,
)

PAGE = mmap.PAGESIZE
SENTINEL = 0xA5
READ, READ_WRITE = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
FEW = (1, 15, 17, 64, 65, 130, 257, 1025, 4099)
ALL = (*range(1, 131), *(edge + d for edge in (256, 1024, 4096) for d in range(-4, 5)))
N = 0  # stands for the length
SHAPES = {
    ROWS: (3, N),
    MATRICES: (2, 3, N),
    COLUMNS: (5, N),
    LEADING: (5, N),
    CHANNELS_FIRST: (1, N, 6),
    PLANES: (2, 3, N),
    CHANNELS_LAST: (2, 3, N),
    GROUPS: (1, 6, N),
    GROUPS_LAST: (2, 3, N),
    MAPS: (2, 3, N),
    ELEMENTS: (N,),
    WEIGHTS: (3, N),
    IMAGES: (1, 3, 2, N),
    IMAGES_LAST: (1, 2, N, 3),
}
libc = ctypes.CDLL(None, use_errno=True)


class Region:
    """Memory between two protected pages."""

    def __init__(self, n_bytes: int) -> None:
        self.bytes = -(-n_bytes // PAGE) * PAGE
        self._memory = mmap.mmap(-1, self.bytes + 2 * PAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) + PAGE
        self._protect(self.start - PAGE, PAGE, 0)
        self._protect(self.start + self.bytes, PAGE, 0)

    def _protect(self, address: int, n_bytes: int, rights: int) -> None:
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(n_bytes), rights):
            raise OSError(ctypes.get_errno(), "mprotect")

    def allow(self, rights: int) -> None:
        """Set the protection of the memory between the pages."""
        self._protect(self.start, self.bytes, rights)

    def put(self, array: Array, at_end: bool, shift: int) -> Array:
        """Copy an array to the start or the end, and fill the rest with sentinels."""
        self.allow(READ_WRITE)
        ctypes.memset(self.start, SENTINEL, self.bytes)
        self._first = self.bytes - array.nbytes if at_end else 0
        self._n_bytes = array.nbytes
        place = (ctypes.c_char * array.nbytes).from_address(self.start + self._first)
        np.frombuffer(place, array.dtype)[...] = array.ravel()
        shifted = (ctypes.c_char * array.nbytes).from_address(self.start + self._first + shift)
        return np.frombuffer(shifted, array.dtype).reshape(array.shape)

    def is_whole(self) -> bool:
        """Whether every sentinel still has its value."""
        content = np.frombuffer((ctypes.c_uint8 * self.bytes).from_address(self.start), np.uint8)
        beside = content[: self._first], content[self._first + self._n_bytes :]
        return all((part == SENTINEL).all() for part in beside)


def shape_of(case: cases.Case, n: int) -> Shape:
    """The case's shape of length n."""
    return tuple(side or n for side in SHAPES[case.shapes])


def arguments_with_out(case: cases.Case, shape: Shape) -> Arguments:
    """Arguments of this shape, with `out` for ops that have it."""
    arguments = arguments_of(case, shape)
    if case.op in OPS_WITH_OUT:
        arguments["out"] = np.zeros_like(next(arguments[name] for name in ("x", "dy", "w") if name in arguments))
    return arguments


def result(case: cases.Case, arguments: Arguments) -> dict[str, tuple[object, ...]]:
    """The bits of all results."""
    returned = getattr(functional, case.op)(**arguments)
    assert "out" not in arguments or first_of(returned) is arguments["out"]
    values = returned if isinstance(returned, tuple) else (returned,)
    named = {name: np.asarray(value) for name, value in zip(case.outputs, values, strict=False) if value is not None}
    return bits(named | {name: arguments[name] for name in case.changed})


def guarded_result(case: cases.Case, arguments: Arguments, *, at_end: bool, shift: int) -> dict[str, object]:
    """The bits of all results, each array in its own region."""
    arrays = {name: regions[name].put(array, at_end, shift) for name, array in arrays_in(arguments).items()}
    inputs = arrays.keys() - case.changed.keys() - {"out"}
    for name in inputs:
        regions[name].allow(READ)
    found = result(case, arguments | arrays)
    for name in inputs:
        regions[name].allow(READ_WRITE)
    assert all(regions[name].is_whole() for name in arrays), "a byte beside an array was written"
    return found


regions: defaultdict[str, Region] = defaultdict(lambda: Region(1 << 17))


def main() -> int:
    """Run all ops, and print the number of calls."""
    faulthandler.enable()  # its traceback names the op that touched a page
    lengths, shift = {"few": FEW, "all": ALL}[sys.argv[1]], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    calls = 0
    for case in cases.CASES:
        for n in lengths:
            shape = shape_of(case, n)
            if lacks_variance(case, shape):
                continue
            arguments = arguments_with_out(case, shape)
            wanted = result(case, {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()})
            for isa in each_isa():
                for at_end in (shift > 0, shift <= 0):
                    found = guarded_result(case, arguments, at_end=at_end, shift=shift)
                    assert found == wanted, (case.name, n, isa, at_end)
                    calls += 1
    print(calls)
    return 0


if __name__ == "__main__":
    sys.exit(main())
