"""Which arrays and numbers ops accept, which they refuse with which error, and that they write their outputs alone."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from defects import (
    DEFECTS,
    EACH_ARRAY,
    EACH_TYPED_ARRAY,
    FLOAT32_ARRAYS,
    MATRIX_DEFECTS,
    SHAPE_DEFECTS,
    leading,
    wrong_precision,
)
from support import (
    OPS,
    OPS_WITH_OUT,
    Array,
    arguments_of,
    arrays_in,
    bits,
    each_case,
    each_isa,
    each_op,
    each_op_with_out,
    first_of,
    results_of,
    run_python,
    small_arguments,
    some_shapes,
)

from cregkit import functional
from cregkit.verify import cases
from cregkit.verify.dtypes import DTYPES, FLOAT32, bfloat16, same_bits
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    GROUPS,
    GROUPS_LAST,
    IMAGES,
    IMAGES_LAST,
    LEADING,
    MAPS,
    MATRICES,
    PLANES,
    Shape,
)

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@contextmanager
def refused(error: type[Exception], name: str, arguments: Arguments) -> Iterator[None]:
    """Expect an exception that names the argument, and every array unchanged."""
    arrays = arrays_in(arguments)
    before = bits(arrays)
    with pytest.raises(error, match=rf"(?<!\w){re.escape(name)}(?!\w)") as caught:
        yield
    assert type(caught.value) is error
    assert len(str(caught.value)) > len(name) + 20, "says what came and how to fix it"
    assert bits(arrays) == before


# ---- arrays that are refused ----


@pytest.mark.parametrize(("op", "name", "dtype"), EACH_TYPED_ARRAY, ids=str)
def test_arrays_of_wrong_type_layout_or_shape_are_refused(op: str, name: str, dtype: np.dtype[Any]) -> None:
    arguments = small_arguments(op, dtype)
    defects = DEFECTS + (MATRIX_DEFECTS if arguments[name].ndim > 1 else [])
    for make, error in defects + (SHAPE_DEFECTS if name != leading(op) else []):
        bad = arguments | {name: make(arguments[name])}
        with refused(error, name, bad):
            getattr(functional, op)(**bad)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize(("op", "name"), [(op, name) for op, name in FLOAT32_ARRAYS if OPS[op].dtypes != DTYPES])
def test_ops_on_float32_alone_refuse_16_bits(op: str, name: str, dtype: np.dtype[Any]) -> None:
    arguments = small_arguments(op)
    with refused(TypeError, name, arguments):
        getattr(functional, op)(**arguments | {name: arguments[name].astype(dtype)})


@pytest.mark.parametrize(
    ("op", "name"), [(op, name) for op, name in FLOAT32_ARRAYS if OPS[op].dtypes == DTYPES and name != leading(op)]
)
@each_dtype
def test_tensors_have_one_type_and_parameters_this_type_or_float32(op: str, name: str, dtype: np.dtype[Any]) -> None:
    arguments = small_arguments(op, dtype)
    is_tensor = arguments[name].shape == arguments[leading(op)].shape
    for other in DTYPES:
        mixed = arguments | {name: arguments[name].astype(other)}
        if other == dtype or (other == FLOAT32 and not is_tensor):
            getattr(functional, op)(**mixed)
            continue
        wanted = (
            f"{dtype.name} like {leading(op)}" if is_tensor else " or ".join(dict.fromkeys(["float32", dtype.name]))
        )
        with pytest.raises(TypeError, match=rf"^{name} must be {wanted}, got {other.name}: convert it with {name}\."):
            getattr(functional, op)(**mixed)


@pytest.mark.skipif(not bfloat16(), reason="needs ml_dtypes")
@pytest.mark.parametrize("op", [op for op, case in OPS.items() if case.dtypes == DTYPES])
def test_types_of_8_bits_are_refused(op: str) -> None:
    import ml_dtypes

    arguments, name = small_arguments(op), leading(op)
    for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.int8):
        with pytest.raises(
            TypeError, match=f"^{name} must be float32, float16 or bfloat16, got {np.dtype(dtype).name}: "
        ):
            getattr(functional, op)(**arguments | {name: arguments[name].astype(dtype)})


@pytest.mark.parametrize("op", [op for op, case in OPS_WITH_OUT.items() if case.dtypes == DTYPES])
@each_dtype
def test_out_has_the_type_of_the_tensors(op: str, dtype: np.dtype[Any]) -> None:
    arguments = small_arguments(op, dtype)
    for other in DTYPES:
        out = arguments[leading(op)].astype(other)
        if other != dtype:
            with refused(TypeError, "out", arguments | {"out": out}):
                getattr(functional, op)(**arguments, out=out)


OPTIONAL = ("gamma", "beta", "dh", "running_mean", "running_var", "velocity", "average")


@pytest.mark.parametrize(("op", "name"), [(op, name) for op, name in EACH_ARRAY if name not in OPTIONAL])
def test_none_for_a_required_array_is_refused(op: str, name: str) -> None:
    arguments = small_arguments(op) | {name: None}
    with refused(TypeError, name, arguments):
        getattr(functional, op)(**arguments)


@pytest.mark.parametrize(
    ("op", "name", "shape"),
    [
        *(
            (op, leading(op), shape)
            for op in OPS
            if op.startswith(("layer", "rms", "dropout_add"))
            for shape in ((), (3, 0), (0,), (0, 0))
        ),
        *((op, "x", shape) for op in OPS if op.startswith("batch_norm") for shape in ((), (3,))),
        *(("batch_norm_forward", "x", shape) for shape in ((1, 5), (0, 5), (1, 5, 1), (3, 5, 0))),
        *((op, "x", shape) for op in OPS if op.startswith("ghost") for shape in ((), (3,), (4, 5, 0), (4, 0, 5))),
        *(("ghost_batch_norm_forward", "x", shape) for shape in ((1, 5), (0, 5), (3, 5), (3, 5, 1))),
        *((op, "x", shape) for op in OPS if op.startswith(("group", "instance")) for shape in ((), (3,), (3, 6, 0))),
        *(("instance_norm_forward", "x", shape) for shape in ((3, 5), (3, 5, 1), (1, 5, 1, 1))),
        *((op, "x", shape) for op in OPS if op.endswith("_images") for shape in ((3, 5), (2, 3, 4, 0), (2, 0, 4, 4))),
        ("jitter_images", "x", (4, 2, 5, 5)),
        ("gaussian_noise", "x", ()),
        ("spatial_dropout", "x", (3,)),
        ("spatial_dropout_backward", "dy", ()),
    ],
)
def test_shapes_that_an_op_cannot_compute_are_refused(op: str, name: str, shape: Shape) -> None:
    arguments = small_arguments(op)
    same_shape = {key for key, value in arrays_in(arguments).items() if value.shape == arguments[name].shape}
    arguments |= {key: np.ones(shape, np.float32) for key in same_shape}
    with refused(ValueError, name, arguments):
        getattr(functional, op)(**arguments)


# ---- numbers that are refused ----

NOT_NUMBERS = ((None, TypeError), ("1", TypeError), ([1.0], TypeError), (1j, TypeError), (np.ones(2), TypeError))
NO_REALS = (
    *NOT_NUMBERS,
    (float("nan"), ValueError),
    (-1e-9, ValueError),
    (float("inf"), ValueError),
    (10**400, ValueError),
)
TOO_SMALL = (*NO_REALS, (0, ValueError), (1e-39, ValueError))
NO_WHOLES = (*NOT_NUMBERS, (1.0, TypeError), (np.float32(1), TypeError))
NO_UNSIGNED = (*NO_WHOLES, (-1, ValueError), (2**64, ValueError))
NO_AXES = (*NO_WHOLES, (0, ValueError), (2, ValueError), (-2, ValueError), (2**70, ValueError))
REFUSED_NUMBERS: dict[str, tuple[tuple[Any, type[Exception]], ...]] = {
    "eps": NO_REALS,
    "momentum": (*NO_REALS, (1.0001, ValueError)),
    "p": (*NO_REALS, (1.0001, ValueError)),
    "lr": NO_REALS,
    "weight_decay": NO_REALS,
    "clipvalue": tuple((value, error) for value, error in TOO_SMALL if value is not None),
    "scale": NO_REALS,
    "l1": NO_REALS,
    "ema_momentum": (*NO_REALS, (1.0001, ValueError)),
    "max_value": TOO_SMALL,
    "seed": NO_UNSIGNED,
    "offset": (*NO_UNSIGNED, (2**64 - 1, ValueError)),
    "step": (*NO_WHOLES, (0, ValueError), (-1, ValueError), (10**400, ValueError)),
    "channel_axis": NO_AXES,
    "num_groups": (*NO_WHOLES, *((value, ValueError) for value in (0, -1, 4, 12, 10**400))),  # for six channels
    "virtual_batch_size": (*NO_WHOLES, (0, ValueError), (-1, ValueError), (-(10**400), ValueError)),
    "axis": (
        *NO_WHOLES,
        *((value, ValueError) for value in (2, -3, 2**70, (), (-1, -1), (1, -1), (-1, 2), (0, 2**70))),
        *((value, TypeError) for value in ((None,), (1.0,), ("1",), [0, 1], ((0, 1),))),
    ),
    "gain_offset": (
        *NOT_NUMBERS,
        *((value, ValueError) for value in (float("nan"), float("inf"), -float("inf"), 3.5e38, -3.5e38, 10**400)),
    ),
    "betas": (
        *((value, ValueError) for value in (None, 0.9, "ab", (0.9,), (0.9, 0.9, 0.9))),
        *(((value, 0.9), ValueError) for value in (1.0, -0.1, float("nan"))),
        *(((0.9, value), error) for value, error in ((1.0, ValueError), ("0.9", TypeError), (None, TypeError))),
    ),
    "shape": tuple(
        (value, error)
        for values, error in (
            ((None, "3", 3.0, (3, None), (3, 2.0)), TypeError),
            ((-1, (3, -1), 2**62, (2**40, 2**40), (1,) * 40), ValueError),
        )
        for value in values
    ),
}


EACH_NUMBER = [
    (op, name)
    for op in OPS
    for name in inspect.signature(getattr(functional, op)).parameters
    if name in REFUSED_NUMBERS
]


@pytest.mark.parametrize(("op", "name"), EACH_NUMBER)
def test_numbers_of_wrong_type_or_range_are_refused(op: str, name: str) -> None:
    for value, error in REFUSED_NUMBERS[name]:
        arguments = small_arguments(op) | {name: value}
        with refused(error, name, arguments):
            getattr(functional, op)(**arguments)


def test_momentum_without_a_velocity_is_refused() -> None:
    arguments = small_arguments("sgd_step") | {"velocity": None}
    with refused(ValueError, "velocity", arguments):
        functional.sgd_step(**arguments)


@pytest.mark.parametrize("value", [np.float32(0.25), np.float64(0.25), np.array(0.25), 0, True])
def test_any_real_scalar_is_accepted_as_a_number(value: Any) -> None:
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    assert np.array_equal(functional.layer_norm(x, eps=value), functional.layer_norm(x, eps=float(value)))


# ---- out ----

REFUSED_OUTPUTS: list[tuple[Callable[[Array], Any], type[Exception]]] = [*DEFECTS, *MATRIX_DEFECTS, *SHAPE_DEFECTS]


def read_only(a: Array) -> Array:
    copy = a.copy()
    copy.setflags(write=False)
    return copy


@pytest.mark.parametrize(
    ("op", "dtype"), [(op, dtype) for op, case in OPS_WITH_OUT.items() for dtype in case.dtypes], ids=str
)
def test_outputs_of_wrong_type_layout_or_shape_are_refused(op: str, dtype: np.dtype[Any]) -> None:
    arguments = small_arguments(op, dtype)
    for make, error in [*REFUSED_OUTPUTS, (read_only, ValueError)]:
        out = make(arguments[leading(op)])
        with refused(error, "out", arguments | {"out": out}):
            getattr(functional, op)(**arguments, out=out)


def in_one_buffer(out: Array, other: Array, shift: int) -> tuple[Array, Array]:
    """The two arrays, copied so that the second starts `shift` bytes after the first starts."""
    memory = np.zeros(out.nbytes + other.nbytes + 64, np.uint8)
    places = [0, shift] if shift >= 0 else [-shift, 0]
    first, second = (
        memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
        for start, a in zip(places, (out, other), strict=True)
    )
    first[...] = out
    second[...] = other
    return first, second


@pytest.mark.parametrize(
    ("op", "name", "dtype"), [given for given in EACH_TYPED_ARRAY if given[0] in OPS_WITH_OUT], ids=str
)
def test_an_out_that_overlaps_an_input_is_refused(op: str, name: str, dtype: np.dtype[Any]) -> None:
    arguments = small_arguments(op, dtype)
    like = np.zeros_like(arguments[leading(op)])
    other = arguments[name]
    for shift in (8, -8, like.nbytes - 8, 8 - other.nbytes):
        out, arguments[name] = in_one_buffer(like, other, shift)
        with refused(ValueError, "out", arguments | {"out": out}):
            getattr(functional, op)(**arguments, out=out)


# Pairs of an array that an op changes in place and another array argument.
CHANGED_PAIRS = [
    (op, changed, other, dtype)
    for op, other, dtype in EACH_TYPED_ARRAY
    for changed in OPS[op].changed
    if other != changed
]


@pytest.mark.parametrize(("op", "changed", "other", "dtype"), CHANGED_PAIRS, ids=str)
def test_an_array_changed_in_place_that_overlaps_another_is_refused(
    op: str, changed: str, other: str, dtype: np.dtype[Any]
) -> None:
    arguments = small_arguments(op, dtype)
    pair = arguments[changed], arguments[other]
    for shift in (0, 4, -4, 4 - pair[1].nbytes):
        arguments[changed], arguments[other] = in_one_buffer(*pair, shift)
        before = bits(arrays_in(arguments))
        with pytest.raises(ValueError, match=rf"\b({changed}|{other}) overlaps ({changed}|{other})\b"):
            getattr(functional, op)(**arguments)
        assert bits(arrays_in(arguments)) == before


@pytest.mark.parametrize(
    ("op", "name", "dtype"),
    [(op, name, dtype) for op, name, dtype in EACH_TYPED_ARRAY if name in OPS[op].changed],
    ids=str,
)
def test_a_read_only_array_to_be_changed_in_place_is_refused(op: str, name: str, dtype: np.dtype[Any]) -> None:
    arguments = small_arguments(op, dtype)
    arguments[name].setflags(write=False)
    with refused(ValueError, name, arguments):
        getattr(functional, op)(**arguments)


def test_arrays_side_by_side_in_memory_do_not_overlap() -> None:
    x, out = in_one_buffer(np.ones((3, 4), np.float32), np.zeros((3, 4), np.float32), 48)
    assert functional.rms_norm(x, out=out) is out
    assert x.tobytes() == np.ones(12, np.float32).tobytes()


@each_case
def test_inputs_are_never_written(case: cases.Case) -> None:
    for shape in case.shapes[-3:]:
        arguments = arguments_of(case, shape)
        for name, array in arrays_in(arguments).items():
            array.setflags(write=name in case.changed)
        inputs = {name: array for name, array in arrays_in(arguments).items() if name not in case.changed}
        before = bits(inputs)
        for _ in each_isa():
            getattr(functional, case.op)(**arguments)
            assert bits(inputs) == before


@each_op_with_out
def test_out_may_be_an_input(case: cases.Case) -> None:
    for shape in case.shapes[:3] + case.shapes[-1:]:
        for _ in each_isa():
            wanted = results_of(case, arguments_of(case, shape))
            for name in ("x", "residual", "dy", "w"):
                arguments = arguments_of(case, shape)
                if name not in arguments:
                    continue
                returned = getattr(functional, case.op)(**arguments, out=arguments[name])
                assert first_of(returned) is arguments[name]
                values = returned if isinstance(returned, tuple) else (returned,)
                assert bits(dict(zip(case.outputs, values, strict=True))) == {
                    key: value for key, value in bits(wanted).items() if key in case.outputs
                }


# ---- the edges of arrays ----

SENTINEL = -12352.0  # a number of every type


def in_the_middle(array: Array) -> tuple[Array, Array]:
    """A copy between 64 sentinels on either side, and the memory of both."""
    memory = np.full(array.size + 128, SENTINEL, array.dtype)
    middle = memory[64:-64].reshape(array.shape)
    middle[...] = array
    return middle, memory


@each_case
def test_nothing_beside_an_output_is_written(case: cases.Case) -> None:
    for shape in some_shapes(case):
        for _ in each_isa():
            arguments = arguments_of(case, shape)
            memories = []
            for name in case.changed:
                arguments[name], memory = in_the_middle(arguments[name])
                memories.append(memory)
            if case.op in OPS_WITH_OUT:
                arguments["out"], memory = in_the_middle(np.zeros(shape, case.dtype))
                memories.append(memory)
            getattr(functional, case.op)(**arguments)
            for memory in memories:
                assert (memory[:64] == SENTINEL).all()
                assert (memory[-64:] == SENTINEL).all()


GUARDED = """
import ctypes, mmap
import numpy as np
from support import OPS_WITH_OUT, arguments_of, arrays_in, each_isa, some_shapes
from cregkit import functional
from cregkit.verify import cases, inputs, shapes

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)

def guarded(array, at_end):
    '''A copy that starts at the first accessible byte, or ends at the last.'''
    pages = max(1, -(-array.nbytes // PAGE))
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for fence in (start, start + (pages + 1) * PAGE):
        assert libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(PAGE), 0) == 0
    place = (pages + 1) * PAGE - array.nbytes if at_end else PAGE
    copy = np.frombuffer(memory, array.dtype, array.size, place).reshape(array.shape)
    copy[...] = array
    return copy

calls = 0
for case in cases.CASES:
    for shape in some_shapes(case):
        plain = arguments_of(case, shape)
        if case.op in OPS_WITH_OUT:
            plain["out"] = np.zeros(shape, case.dtype)
        for at_end in (False, True):
            arguments = plain | {name: guarded(a, at_end) for name, a in arrays_in(plain).items() if a.size}
            for isa in each_isa():
                print(case.name, shape, isa, at_end, flush=True)
                getattr(functional, case.op)(**arguments)
                calls += 1
print("calls", calls)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="protects memory with mprotect")
def test_nothing_beside_an_array_is_read_or_written() -> None:
    """Each array ends or starts at a protected page: touching it would kill the process."""
    done = run_python("-c", GUARDED)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr
    assert int(done.stdout.split()[-1]) > 500


# Training needs two values per channel: test_shapes_that_an_op_cannot_compute_are_refused.
WITH_ZERO_ROWS = [
    c for c in cases.CASES if not c.op.endswith("batch_norm_forward") and c.shapes not in (CHANNELS_FIRST, LEADING)
]


@pytest.mark.parametrize("case", WITH_ZERO_ROWS, ids=lambda case: case.name)
def test_zero_rows_give_empty_results_and_zero_sums(case: cases.Case) -> None:
    channels_last = case.shapes in (CHANNELS_LAST, GROUPS_LAST)
    shape = {
        PLANES: (0, 3, 4),
        GROUPS: (0, 3, 4),
        MAPS: (0, 3, 4),
        MATRICES: (0, 3, 4),
        IMAGES: (0, 3, 5, 2),
        IMAGES_LAST: (0, 5, 2, 3),
    }.get(case.shapes, (0, 4, 3) if channels_last else (0, 3))
    arguments = case.arguments((2, *shape[1:]), np.random.default_rng(0), 0.0)
    per_row = {name for name, a in arrays_in(arguments).items() if a.shape[0] == 2}
    per_row |= {"mean", "rstd"} if "virtual_batch_size" in arguments else set()
    arguments |= {name: arguments[name][:0] for name in per_row} | ({"shape": shape} if "shape" in arguments else {})
    for _ in each_isa():
        for name, result in results_of(case, arguments).items():
            if name in case.changed:
                assert np.array_equal(result, arguments[name])
            elif name in ("dgamma", "dbeta", "penalty", "total"):
                assert not result.any()
            elif case.op in ("crop_images", "sample_uniform") or name in ("mean", "rstd"):
                assert len(result) == 0
            else:
                assert result.shape == (shape if result.ndim > 1 else shape[:1]), name


# ---- arrays of other kinds ----


class Subclass(np.ndarray):  # type: ignore[type-arg]
    """A subclass of ndarray."""


WRITES_DLPACK = np.lib.NumpyVersion(np.__version__) >= "2.3.0"
"""Older ones import every DLPack array as read-only."""


class Foreign:
    """An array that offers the DLPack protocol alone, as those of PyTorch and JAX."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        assert not options.get("copy")
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


class RequiresGrad(Foreign):
    def __dlpack__(self, **options: Any) -> Any:
        raise RuntimeError("requires grad")


class OnAnotherDevice(Foreign):
    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("not on the CPU")


def as_memmap(array: Array, folder: Path) -> Array:
    mapped = np.memmap(folder / "array", dtype=array.dtype, mode="w+", shape=array.shape)
    mapped[...] = array
    return mapped


@each_op
@pytest.mark.parametrize("kind", ["subclass", "memmap", "dlpack"])
def test_subclasses_memmaps_and_dlpack_arrays_give_the_same_bits(case: cases.Case, kind: str, tmp_path: Path) -> None:
    convert: dict[str, Callable[[Array], Any]] = {
        "subclass": lambda a: a.view(Subclass),
        "memmap": lambda a: as_memmap(a, tmp_path),
        "dlpack": Foreign,
    }
    plain = small_arguments(case.op)
    wanted = bits(results_of(case, plain))
    for name in arrays_in(plain):
        arguments = small_arguments(case.op)
        if name in case.changed:  # the op writes into this array: a copy would be noticed
            kept = arguments[name]
            given = kept.view(Subclass) if kind == "subclass" else convert[kind](kept)
            call = functools.partial(getattr(functional, case.op), **arguments | {name: given})
            if kind == "dlpack" and not WRITES_DLPACK:
                with pytest.raises(ValueError, match=f"^{name} is read-only"):
                    call()
                continue
            call()
            assert bits({name: kept if kind != "memmap" else np.asarray(given)})[name] == wanted[name]
        else:
            results = getattr(functional, case.op)(**arguments | {name: convert[kind](arguments[name])})
            values = results if isinstance(results, tuple) else (results,)
            got = dict(zip(case.outputs, values, strict=False))
            got = {key: np.asarray(value) for key, value in got.items() if value is not None}
            assert all(bits(got)[key] == wanted[key] for key in got)
            assert all(type(value) is np.ndarray for value in values if isinstance(value, np.ndarray))


@pytest.mark.parametrize(("op", "name"), EACH_ARRAY)
def test_dlpack_arrays_that_cannot_be_read_in_place_are_refused(op: str, name: str) -> None:
    arguments = small_arguments(op)
    for kind in (RequiresGrad, OnAnotherDevice):
        with refused(TypeError, name, arguments):
            getattr(functional, op)(**arguments | {name: kind(arguments[name])})
    with refused(TypeError, name, arguments):
        getattr(functional, op)(**arguments | {name: Foreign(wrong_precision(arguments[name]))})


def test_dlpack_arrays_of_float16_are_read_in_place() -> None:
    x = small_arguments("rms_norm", np.dtype(np.float16))["x"]
    wanted, out = functional.rms_norm(x), np.zeros_like(x)
    assert functional.rms_norm(Foreign(x)).tobytes() == wanted.tobytes()  # type: ignore[arg-type]
    if WRITES_DLPACK:
        functional.rms_norm(x, out=Foreign(out))  # type: ignore[arg-type]
        assert out.tobytes() == wanted.tobytes()


def test_tensors_of_pytorch_have_16_bits_too() -> None:
    """Those of float16 are read in place. NumPy cannot read bfloat16, and the error shows how to pass its bits."""
    torch = pytest.importorskip("torch")
    x = torch.linspace(-3, 3, 24).reshape(4, 6)
    half, out = x.half(), torch.empty(4, 6, dtype=torch.float16)
    functional.rms_norm(half, out=out)
    assert out.numpy().tobytes() == functional.rms_norm(half.numpy()).tobytes()
    if dtype := bfloat16():
        x = x.bfloat16()
        with pytest.raises(TypeError, match=r"^x holds bfloat16, .* x\.detach\(\)\.view\(torch\.int16\)\.numpy\(\)"):
            functional.rms_norm(x)
        y = functional.rms_norm(x.detach().view(torch.int16).numpy().view(dtype))
        assert same_bits(y, functional.rms_norm(x.float().numpy()).astype(dtype))
