"""The same inputs give the same bits for any ISA, thread count, batch split, address, store and floating-point mode."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise, starmap

import numpy as np
import pytest
from support import (
    ISAS,
    OPS_WITH_OUT,
    ROW_NORMS,
    ROW_OPS,
    THREADS,
    Array,
    arguments_of,
    arrays_in,
    bits,
    each_case,
    each_isa,
    first_of,
    huge,
    results_of,
)

from cregkit import functional
from cregkit.kernels import _threads
from cregkit.verify import cases
from cregkit.verify.dtypes import FLOAT32
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

# Shapes of each family with enough elements for seven threads. No size is a multiple of a vector.
LARGE: dict[tuple[Shape, ...], tuple[Shape, ...]] = {
    ROWS: ((701, 333), (7, 70001), (65537, 5)),
    MATRICES: ((701, 3, 111), (7, 29, 2411)),
    CHANNELS_FIRST: ((9, 131, 13, 17), (2, 61, 2111), (3, 2503, 33)),
    LEADING: ((997, 251), (67, 3999)),
    COLUMNS: ((997, 251), (67, 3999)),
    PLANES: ((9, 13, 45, 47), (3, 2, 211, 199), (2, 1, 130001)),
    CHANNELS_LAST: ((23, 11, 997), (5, 7, 97, 73)),
    GROUPS: ((9, 12, 45, 47), (3, 2, 211, 199), (1, 5, 26001), (37, 6001), (2, 320, 19, 21)),
    GROUPS_LAST: ((9, 45, 47, 12), (3, 211, 199, 2), (1, 26001, 5), (2, 19, 21, 320)),
    ELEMENTS: ((260013,), (7, 40961)),
    MAPS: ((37, 53, 11, 12), (251, 997), (3, 2, 211, 199)),
    IMAGES: ((61, 3, 37, 41), (2, 3, 211, 199)),
    IMAGES_LAST: ((61, 37, 41, 3), (2, 211, 199, 3)),
    WEIGHTS: ((701, 333), (7, 70001), (65537, 5)),
}


@each_case
def test_every_isa_and_thread_count_gives_the_same_bits(case: cases.Case) -> None:
    for shape in LARGE[case.shapes]:
        arguments = arguments_of(case, shape, 100.0)
        found = set()
        for _ in each_isa():
            for n in THREADS:
                with _threads.exact_threads(n):
                    found.add(tuple(bits(results_of(case, arguments)).items()))
        if case.dtype != FLOAT32:
            found.add(tuple(bits(cases.rounded_results(case, functional, arguments)).items()))
        assert len(found) == 1, shape


# Ops that treat each row (sample) alone; instance_norm_forward does too, but for its running statistics.
BY_ROW = (*ROW_OPS, "batch_norm", "batch_norm_inference_backward", "instance_norm", "instance_norm_backward")
ROWWISE = [c for c in cases.CASES if (c.op in BY_ROW or c.op.startswith("group_norm")) and c.shapes is not LEADING]
PARAMETER_GRADIENTS = ("dgamma", "dbeta")  # sums over the rows


def piece_of(arguments: Arguments, names: list[str], i: int, j: int) -> Arguments:
    """Rows i to j; an offset into a random stream moves on by the elements before row i."""
    before = arguments[names[0]][:i].size
    moved = {"offset": arguments["offset"] + before} if "offset" in arguments else {}
    return {name: arguments[name][i:j] for name in names} | moved


@pytest.mark.parametrize(
    ("case", "width"),
    [
        pytest.param(case, width, id=f"{case.name}-{width}")
        for case in ROWWISE
        for width in ((11, 64, 200, 300, 1029, 9001) if case.dtype == FLOAT32 else (64, 9001))
    ],
)
def test_any_split_of_the_batch_gives_the_same_rows(case: cases.Case, width: int, isa: str) -> None:
    shape = {
        PLANES: (131, 5, 7, 7),
        CHANNELS_LAST: (131, 5, 37),
        MATRICES: (131, 3, width),
        CHANNELS_FIRST: (131, 33, width // 11),
        GROUPS: (131, 6, 7, 7),
        GROUPS_LAST: (131, 5, 36),
    }.get(case.shapes, (131, width))
    arguments = arguments_of(case, shape)
    whole = results_of(case, arguments)
    by_row = [name for name, array in arrays_in(arguments).items() if len(array) == shape[0]]
    for cuts in ((1,), (8,), (63,), (64,), (65, 66), (2, 3, 128)):
        edges = (0, *cuts, shape[0])
        pieces = [results_of(case, arguments | piece_of(arguments, by_row, i, j)) for i, j in pairwise(edges)]
        for name in whole.keys() - PARAMETER_GRADIENTS:
            assert np.concatenate([piece[name] for piece in pieces]).tobytes() == whole[name].tobytes(), name


@pytest.mark.parametrize("rows", [5, 20, 64])
@pytest.mark.parametrize("case", [c for c in cases.CASES if c.shapes is COLUMNS], ids=lambda case: case.name)
def test_any_split_of_the_channels_gives_the_same_channels(case: cases.Case, rows: int, isa: str) -> None:
    """The kernel processes few rows of many channels in blocks of channels."""
    channels, edges = 9001, range(0, 10501, 1500)
    arguments = arguments_of(case, (rows, channels))
    for channel, value in ((7, huge(arguments["x"])), (4444, np.nan), (8000, 3.0)):
        arguments["x"][:, channel] = value
    whole = results_of(case, arguments)
    pieces = [
        results_of(case, arguments | {k: v[..., i:j].copy() for k, v in arrays_in(arguments).items()})
        for i, j in pairwise(edges)
    ]
    for name, value in whole.items():
        assert np.concatenate([piece[name] for piece in pieces], axis=-1).tobytes() == value.tobytes(), name


@pytest.mark.parametrize("channels", [3, 5, 70, 1300])
@pytest.mark.parametrize("case", [c for c in cases.CASES if c.shapes is LEADING], ids=lambda case: case.name)
def test_any_split_of_the_positions_gives_the_same_positions(case: cases.Case, channels: int, isa: str) -> None:
    """Also beside positions that are computed in float64. A single position is a contiguous row: other bits."""
    arguments = arguments_of(case, (channels, 700))
    for position, value in ((7, huge(arguments["x"])), (300, np.nan), (444, 3.0), (640, 1e-30)):
        arguments["x"][:, position] = value
    whole = results_of(case, arguments)
    by_position = [name for name, array in arrays_in(arguments).items() if array.shape[-1] == 700]
    for cuts in ((2,), (7, 9), (64, 257), (299, 301), (130, 133, 690)):
        edges = (0, *cuts, 700)
        pieces = [
            results_of(case, arguments | {name: arguments[name][..., i:j].copy() for name in by_position})
            for i, j in pairwise(edges)
        ]
        for name in whole.keys() - PARAMETER_GRADIENTS:
            assert np.concatenate([piece[name] for piece in pieces], axis=-1).tobytes() == whole[name].tobytes(), name


def placed(array: Array, position: int) -> Array:
    """A copy that starts `position` elements after the start of a 64-byte cache line."""
    per_line = 64 // array.itemsize
    memory = np.zeros(array.size + 2 * per_line, array.dtype)
    start = -memory.ctypes.data % 64 // array.itemsize + position % per_line
    copy = memory[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


@each_case
def test_the_address_of_an_array_never_changes_a_bit(case: cases.Case, isa: str) -> None:
    op = getattr(functional, case.op)
    for shape in case.shapes[-2:]:
        arguments = arguments_of(case, shape)
        wanted = bits(results_of(case, arguments))
        for position in range(16):
            moved = {
                name: placed(value, position * (1 + 2 * i))
                for i, (name, value) in enumerate(arrays_in(arguments).items())
            }
            # not cases.run(), which copies the arguments to other addresses
            returned = op(**arguments | moved)
            results = dict(zip(case.outputs, returned if isinstance(returned, tuple) else (returned,), strict=False))
            results |= {name: moved[name] for name in case.changed}
            assert bits({name: np.asarray(value) for name, value in results.items()}) == wanted
            if case.op in OPS_WITH_OUT:
                first = next(iter(case.outputs))
                out = placed(results[first], 5 * position + 3)
                out[...] = np.nan
                assert first_of(op(**arguments | moved, out=out)) is out
                assert bits({first: out})[first] == wanted[first]


# ---- Outputs of 16 Mi elements or more use streaming stores; an eighth does not where the LLC has 32 MiB. ----

WIDE = (4097, 4099)  # rows are not aligned to vectors
ALIGNED = (4096, 4352)
LONG_PLANES = (33, 8, 255, 255)  # several tasks per channel; the shapes below have at most one
MIDDLE_PLANES = (130, 64, 46, 46)
SHORT_PLANES = (130, 150, 29, 31)


@pytest.fixture(scope="module")
def large() -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return tuple(rng.standard_normal(ALIGNED[0] * ALIGNED[1], np.float32) for _ in range(2))  # type: ignore[return-value]


def eighths(n: int) -> Iterator[slice]:
    """Cut ``range(n)`` into eight parts of about the same length."""
    ends = [n * i // 8 for i in range(9)]
    return starmap(slice, pairwise(ends))


def assert_pieces(whole: Array, pieces: list[Array]) -> None:
    assert np.array_equal(whole.view(np.uint32), np.concatenate(pieces).view(np.uint32))


@pytest.mark.parametrize("shape", [WIDE, ALIGNED])
@pytest.mark.parametrize("op", ROW_NORMS)
def test_streaming_stores_change_no_bit_of_rows(large: tuple[Array, Array], op: str, shape: Shape) -> None:
    dy, x = (a[: np.prod(shape)].reshape(shape) for a in large)
    gamma = np.linspace(0.5, 1.5, shape[1], dtype=np.float32)
    forward, backward = (getattr(functional, f"{op}_{direction}") for direction in ("forward", "backward"))
    for _ in each_isa():
        y, *saved = forward(x, gamma)
        assert_pieces(y, [forward(x[rows], gamma)[0] for rows in eighths(shape[0])])
        dx = backward(dy, x, *saved, gamma)[0]
        pieces = [backward(dy[i], x[i], *(s[i] for s in saved), gamma)[0] for i in eighths(shape[0])]
        assert_pieces(dx, pieces)


@pytest.mark.parametrize("shape", [LONG_PLANES, MIDDLE_PLANES, SHORT_PLANES])
@pytest.mark.parametrize("op", ROW_NORMS)
def test_streaming_stores_change_no_bit_across_memory(large: tuple[Array, Array], op: str, shape: Shape) -> None:
    dy, x = (a[: np.prod(shape)].reshape(shape) for a in large)
    gamma = np.linspace(0.5, 1.5, shape[1], dtype=np.float32)
    forward, backward = (partial(getattr(functional, f"{op}_{way}"), axis=1) for way in ("forward", "backward"))
    for _ in each_isa():
        y, *saved = forward(x, gamma)
        assert_pieces(y, [forward(x[samples], gamma)[0] for samples in eighths(shape[0])])
        dx = backward(dy, x, *saved, gamma)[0]
        pieces = [backward(dy[i], x[i], *(s[i] for s in saved), gamma)[0] for i in eighths(shape[0])]
        assert_pieces(dx, pieces)


@pytest.mark.parametrize("shape", [WIDE, ALIGNED, LONG_PLANES, MIDDLE_PLANES, SHORT_PLANES])
def test_streaming_stores_change_no_bit_of_channels(large: tuple[Array, Array], shape: Shape) -> None:
    dy, x = (a[: np.prod(shape)].reshape(shape) for a in large)
    gamma = np.linspace(0.5, 1.5, shape[1], dtype=np.float32)
    for _ in each_isa():
        y, *saved = functional.batch_norm_forward(x, gamma)
        dx = functional.batch_norm_backward(dy, x, *saved, gamma)[0]
        for channels in eighths(shape[1]):
            part, part_dy = (np.ascontiguousarray(a[:, channels]) for a in (x, dy))
            part_y, *part_saved = functional.batch_norm_forward(part, gamma[channels])
            part_dx = functional.batch_norm_backward(part_dy, part, *part_saved, gamma[channels])[0]
            assert np.array_equal(y[:, channels].view(np.uint32), part_y.view(np.uint32))
            assert np.array_equal(dx[:, channels].view(np.uint32), part_dx.view(np.uint32))


@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("num_groups", [1, 4, 8])
def test_streaming_stores_change_no_bit_of_groups(
    large: tuple[Array, Array], num_groups: int, channel_axis: int
) -> None:
    shape = LONG_PLANES if channel_axis == 1 else (LONG_PLANES[0], *LONG_PLANES[2:], LONG_PLANES[1])
    dy, x = (a[: np.prod(shape)].reshape(shape) for a in large)
    gamma = np.linspace(0.5, 1.5, 8, dtype=np.float32)
    for _ in each_isa():
        y, *saved = functional.group_norm_forward(x, num_groups, gamma, channel_axis=channel_axis)
        dx = functional.group_norm_backward(dy, x, *saved, gamma, channel_axis=channel_axis)[0]
        for i in eighths(shape[0]):
            part = functional.group_norm(x[i], num_groups, gamma, channel_axis=channel_axis)
            assert_pieces(y[i], [part])
            given = dy[i], x[i], *(s[i] for s in saved), gamma
            assert_pieces(dx[i], [functional.group_norm_backward(*given, channel_axis=channel_axis)[0]])


@pytest.mark.parametrize("offset", [0, 1, 31])
def test_streaming_stores_change_no_bit_of_elements(large: tuple[Array, Array], offset: int) -> None:
    n = 16 * 2**20 + 77
    x, out = large[0][:n], placed(large[0][:n], offset)
    ops: list[Callable[..., Array]] = [
        lambda x, at, out=None: functional.dropout(x, 0.3, seed=2, offset=offset + at, out=out),
        lambda x, at, out=None: functional.alpha_dropout(x, 0.3, seed=2, offset=offset + at, out=out),
        lambda x, at, out=None: functional.l2_gradient(x, 0.7, out=out),
    ]
    for op in ops:
        for _ in each_isa():
            pieces = [op(x[part], part.start) for part in eighths(n)]
            assert_pieces(op(x, 0, out=out), pieces)
            np.copyto(out, x)
            assert_pieces(op(out, 0, out=out), pieces)


def test_streaming_stores_change_no_bit_of_maps(large: tuple[Array, Array]) -> None:
    x = large[0][: np.prod(LONG_PLANES)].reshape(LONG_PLANES)
    ops: list[tuple[Callable[..., Array], int]] = [
        (functional.drop_path, 1),
        *((op, LONG_PLANES[1]) for op in (functional.spatial_dropout, functional.feature_alpha_dropout)),
        (partial(functional.spatial_dropout, channel_axis=-1), LONG_PLANES[-1]),
    ]
    for op, decisions in ops:
        for _ in each_isa():
            pieces = [op(x[part], 0.3, seed=2, offset=decisions * part.start) for part in eighths(len(x))]
            assert_pieces(op(x, 0.3, seed=2), pieces)


# ---- the floating-point mode of the calling thread ----

UPWARD = 0x4000  # MXCSR: round towards +infinity
FLUSH = 0x8040  # MXCSR: subnormal results and operands are 0


@contextmanager
def floating_point_mode(mxcsr_bits: int) -> Iterator[None]:
    """Set these bits of the calling thread's MXCSR, the last of the eight words of glibc's fenv_t."""
    libm = ctypes.CDLL("libm.so.6")
    before, changed = (ctypes.c_uint32 * 8)(), (ctypes.c_uint32 * 8)()
    assert libm.fegetenv(before) == 0
    assert libm.fegetenv(changed) == 0
    changed[7] |= mxcsr_bits
    assert libm.fesetenv(changed) == 0
    try:
        yield
    finally:
        assert libm.fesetenv(before) == 0


needs_mxcsr = pytest.mark.skipif(
    not (sys.platform == "linux" and platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc"),
    reason="sets the floating-point mode through glibc's x86-64 fenv_t",
)


@needs_mxcsr
@pytest.mark.parametrize("mode", [UPWARD, FLUSH], ids=["upward", "flush"])
def test_the_helper_sets_the_floating_point_mode(mode: int) -> None:
    third, tiny = np.full(2, 1 / 3), np.full(2, 1e-40, np.float32)
    with floating_point_mode(mode):
        results = ((third + 1.0).tobytes(), (tiny * np.float32(1.0)).tobytes())
    assert results != ((third + 1.0).tobytes(), (tiny * np.float32(1.0)).tobytes())


@needs_mxcsr
@pytest.mark.parametrize("mode", [UPWARD, FLUSH], ids=["upward", "flush"])
@each_case
def test_the_callers_floating_point_mode_changes_no_bit(case: cases.Case, mode: int) -> None:
    for shape in (case.shapes[1], LARGE[case.shapes][0]):
        arguments = arguments_of(case, shape)
        wanted = bits(results_of(case, arguments))
        for isa in each_isa():
            for n in (1, 2):
                with _threads.exact_threads(n), floating_point_mode(mode):
                    got = results_of(case, arguments)
                assert bits(got) == wanted, (isa, n)


@needs_mxcsr
@pytest.mark.parametrize("threads", [1, 2])
def test_the_callers_floating_point_mode_is_restored(threads: int) -> None:
    third, x = np.full(2, 1 / 3), np.ones((300, 301), np.float32)
    nearest = (third + 1.0).tobytes()
    with _threads.exact_threads(threads), floating_point_mode(UPWARD):
        upward = (third + 1.0).tobytes()
        functional.batch_norm(x, x[0], x[0])
        after = (third + 1.0).tobytes()
    assert after == upward != nearest
    assert (third + 1.0).tobytes() == nearest


@needs_mxcsr
def test_subnormals_are_kept_in_any_mode() -> None:
    x = (np.arange(-40, 41) * np.float32(1e-45)).astype(np.float32).reshape(1, -1)
    wanted = functional.layer_norm(x, eps=0.0)
    assert np.ptp(wanted) > 3.0
    for _ in each_isa():
        with floating_point_mode(FLUSH):
            got = functional.layer_norm(x, eps=0.0)
        assert got.tobytes() == wanted.tobytes()


def test_at_least_two_instruction_sets_are_compared() -> None:
    assert "scalar" in ISAS
    assert len(ISAS) > 1 or platform.machine() not in ("x86_64", "AMD64", "aarch64", "arm64")
