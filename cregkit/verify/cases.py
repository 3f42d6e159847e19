"""One row per op: its inputs, shapes and tolerances. Tests, ``cregkit check`` and the benchmarks all read it.

A tolerance bounds the error of one output against the float64 oracle: ``max |got - reference| <= bound * scale``. The
scale is 1 where the values are of the order of 1 by construction, else the largest magnitude of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import oracle

Arguments = dict[str, Any]
Shape = tuple[int, ...]

UNIT = 2.0**-24
"""Largest relative error of one float32 rounding."""


@dataclass(frozen=True)
class Tolerance:
    """A bound on the error of an output, what it is relative to, and why it is what it is."""

    bound: float
    reason: str
    scale: Callable[[Arguments, NDArray[Any]], float]


def unit_scale(arguments: Arguments, reference: NDArray[Any]) -> float:
    """Errors are absolute: the values are of the order of 1."""
    return 1.0


def largest(arguments: Arguments, reference: NDArray[Any]) -> float:
    """Errors are relative to the largest finite magnitude of the reference."""
    finite = np.abs(reference[np.isfinite(reference)])
    return float(finite.max(initial=0.0)) or 1.0


def deviation_of_sum(arguments: Arguments, reference: NDArray[Any]) -> float:
    """The standard deviation of ``residual + dropout(x, p)`` where both are of deviation 1."""
    return math.sqrt(1.0 + 1.0 / (1.0 - arguments["p"]))


def noise_scale(arguments: Arguments, reference: NDArray[Any]) -> float:
    """The largest noise there can be, or the largest sum."""
    return max(6.66 * float(arguments["sigma"].max(initial=0.0)), largest(arguments, reference))


def largest_pixel(arguments: Arguments, reference: NDArray[Any]) -> float:
    """Errors are relative to the largest magnitude of the images or the fill: their mixture may cancel."""
    images = (arguments[name] for name in ("x", "other") if name in arguments)
    return max(float(arguments.get("fill", 0.0)), *(largest(arguments, image) for image in images))


def gradient_scale(arguments: Arguments, reference: NDArray[Any]) -> float:
    """The largest magnitude of the gradient, or a billionth of that of its terms.

    With one value per row the terms cancel almost wholly, and what is left is float64's own rounding, in the oracle
    too.
    """
    rstd = arguments["rstd"] if "rstd" in arguments else 1.0 / np.sqrt(arguments["var"] + arguments["eps"])
    terms = np.abs(arguments["dy"]).max(initial=0.0) * np.max(rstd, initial=0.0)
    return max(largest(arguments, reference), 1e-9 * float(terms))


def column_sum_scale(arguments: Arguments, reference: NDArray[Any]) -> float:
    """The largest magnitude of the sums, or that at which the bound is one rounding of their terms' magnitudes.

    The terms are dy or dy * x_hat, where x_hat is of the order of 1; alone in its array, a sum can cancel to far less.
    """
    dy = np.abs(arguments["dy"]).astype(np.float64)
    terms = np.moveaxis(dy, arguments.get("channel_axis", -1), -1).reshape(-1, reference.size).sum(axis=0)
    return max(largest(arguments, reference), UNIT / COLUMN_SUM.bound * float(terms.max(initial=0.0)))


def step_scale(name: str) -> Callable[[Arguments, NDArray[Any]], float]:
    """The largest sum that an array of an optimiser's step could be of its terms, if none cancelled another.

    That is the step of the magnitudes, whose weights are a difference yet: |w| - lr * |...|, where |w| + lr * |...|
    is due.
    """

    def scale(arguments: Arguments, reference: NDArray[Any]) -> float:
        step = oracle.adamw_step if "m" in arguments else oracle.sgd_step
        sums: Arguments = {
            n: np.abs(a).astype(np.float64) if isinstance(a, np.ndarray) else a for n, a in arguments.items()
        }
        step(**sums)
        return largest(arguments, sums[name] if name != "w" else 2.0 * np.abs(arguments["w"]) - sums["w"])

    return scale


NORMALISED = Tolerance(1e-6, "the contract for rows of any offset up to 1e6: four roundings of values below 8", largest)
STATISTIC = Tolerance(2e-7, "float32 sums of at most 4096 values, in units of the rows' own deviation", unit_scale)
INVERSE_DEVIATION = Tolerance(2e-7, "half the relative error of a float32 sum of squares", largest)
GRADIENT = Tolerance(2e-6, "the contract: 2e-6 of the gradient's own largest magnitude", gradient_scale)
COLUMN_SUM = Tolerance(2e-6, "the contract: 2e-6 of the gradient's own largest magnitude", column_sum_scale)
SCALED = Tolerance(2.5 * UNIT, "one product with a factor rounded to float32", largest)
STATISTIC_OF_SUM = Tolerance(STATISTIC.bound, STATISTIC.reason, deviation_of_sum)
EXACT = Tolerance(0.0, "a decision, not a number", unit_scale)
RUNNING = Tolerance(4 * UNIT, "a float32 store of a float64 mixture of float32-accurate statistics", largest)
MOVED = Tolerance(0.0, "numbers are moved, not computed", unit_scale)
UNIFORM = Tolerance(0.0, "53 random bits", unit_scale)
NOISY = Tolerance(
    16 * UNIT, "a dozen roundings of a number below 6.66 times the deviation, one of the sum", noise_scale
)
MIXED = Tolerance(3 * UNIT, "two products and a sum of numbers no larger than the largest", largest_pixel)
TURNED = Tolerance(8 * UNIT, "weights from float64, three lerps of numbers no larger than the largest", largest_pixel)
JITTERED = Tolerance(32 * UNIT, "some twenty roundings of numbers of the order of 1", unit_scale)
PENALTY = Tolerance(4 * UNIT, "float32 sums of at most 4096 squares, then float64", largest)


def stepped(*names: str) -> dict[str, Tolerance]:
    """The tolerances of the arrays that an optimiser's step changes."""
    reason = "at most eight roundings on the way of each term into the sum"
    return {name: Tolerance(8 * UNIT, reason, step_scale(name)) for name in names}


@dataclass(frozen=True)
class Case:
    """An op with its arguments, the shapes to try and the tolerances of its results.

    ``arguments(shape, rng, offset)`` makes fresh keyword arguments; the data are ``offset + N(0, 1)``. ``outputs``
    names what the op returns, in order; ``changed`` names the arguments it changes in place. ``bytes_per_element`` is
    what it must move beyond the caches, for each element of the shape: every pass over an array counts. (Batch
    statistics need a pass of their own; what fits into a cache moves less.)
    """

    op: str
    arguments: Callable[[Shape, np.random.Generator, float], Arguments]
    shapes: tuple[Shape, ...]
    outputs: Mapping[str, Tolerance]
    changed: Mapping[str, Tolerance]
    bytes_per_element: int
    label: str = ""

    @property
    def name(self) -> str:
        """The op, and what sets this row apart from others of the same op."""
        return f"{self.op}[{self.label}]" if self.label else self.op


def run(case: Case, namespace: Any, arguments: Arguments) -> dict[str, NDArray[Any]]:
    """Call the case's op in ``cregkit.functional`` or ``cregkit.oracle``: every result and changed argument by name.

    The arguments are copied first, so that one set serves several calls.
    """
    given = {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in arguments.items()}
    returned = getattr(namespace, case.op)(**given)
    values = returned if isinstance(returned, tuple) else (returned,)
    results = {name: np.asarray(value) for name, value in zip(case.outputs, values, strict=False) if value is not None}
    results.update({name: given[name] for name in case.changed if given[name] is not None})
    return results


def reference(case: Case, arguments: Arguments) -> dict[str, NDArray[Any]]:
    """The oracle's results in float64, changed arguments included."""
    wide = {
        name: value.astype(np.float64) if name in case.changed and isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    return run(case, oracle, wide)


def errors(
    case: Case, arguments: Arguments, got: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """Error of each output as a share of its tolerance: at most 1 is right, a missing output is infinitely wrong."""
    tolerances = {**case.outputs, **case.changed}
    return {
        name: share_of_tolerance(got[name], value, tolerances[name], arguments) if name in got else np.inf
        for name, value in wanted.items()
    }


def share_of_tolerance(got: NDArray[Any], wanted: NDArray[Any], tolerance: Tolerance, arguments: Arguments) -> float:
    """Error of one output as a share of its tolerance; infinite for a wrong shape or a NaN or Inf out of place."""
    if got.shape != wanted.shape:
        return np.inf
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return np.inf
    error = float(np.abs(got[finite] - wanted[finite]).max(initial=0.0))
    if error == 0.0:
        return 0.0
    limit = tolerance.bound * tolerance.scale(arguments, wanted)
    return error / limit if limit > 0.0 else np.inf


def _normal(rng: np.random.Generator, shape: Shape, offset: float = 0.0) -> NDArray[np.float32]:
    return (offset + rng.standard_normal(shape)).astype(np.float32)


def _gain(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return rng.uniform(0.5, 1.5, n).astype(np.float32)


def _channels(shape: Shape, channel_axis: int) -> int:
    return shape[channel_axis]


def _layer_norm(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    n = shape[-1]
    return {"x": _normal(rng, shape, offset), "gamma": _gain(rng, n), "beta": _normal(rng, (n,)), "eps": 1e-5}


def _layer_norm_backward(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    x = _normal(rng, shape, offset)
    _, mean, rstd = oracle.layer_norm_forward(x)
    return {"dy": _normal(rng, shape), "x": x, "mean": mean, "rstd": rstd, "gamma": _gain(rng, shape[-1])}


def _rms_norm(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    return {"x": _normal(rng, shape, offset), "gamma": _gain(rng, shape[-1]), "eps": 1e-6}


def _rms_norm_backward(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    x = _normal(rng, shape, offset)
    _, rstd = oracle.rms_norm_forward(x)
    return {"dy": _normal(rng, shape), "x": x, "rstd": rstd, "gamma": _gain(rng, shape[-1])}


def _batch_norm_forward(channel_axis: int) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        c = _channels(shape, channel_axis)
        return {
            "x": _normal(rng, shape, offset),
            "gamma": _gain(rng, c),
            "beta": _normal(rng, (c,)),
            "running_mean": _normal(rng, (c,), offset),
            "running_var": _gain(rng, c),
            "channel_axis": channel_axis,
        }

    return arguments


def _batch_norm_backward(channel_axis: int) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        x = _normal(rng, shape, offset)
        _, mean, rstd = oracle.batch_norm_forward(x, channel_axis=channel_axis)
        gamma = _gain(rng, _channels(shape, channel_axis))
        dy = _normal(rng, shape)
        return {"dy": dy, "x": x, "mean": mean, "rstd": rstd, "gamma": gamma, "channel_axis": channel_axis}

    return arguments


def _batch_norm(channel_axis: int) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        c = _channels(shape, channel_axis)
        return {
            "x": _normal(rng, shape, offset),
            "mean": _normal(rng, (c,), offset),
            "var": _gain(rng, c),
            "gamma": _gain(rng, c),
            "beta": _normal(rng, (c,)),
            "eps": 1e-5,
            "channel_axis": channel_axis,
        }

    return arguments


def _batch_norm_inference_backward(channel_axis: int) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        given = _batch_norm(channel_axis)(shape, rng, offset)
        del given["beta"]
        return {"dy": _normal(rng, shape), **given}

    return arguments


def _on_grid(values: NDArray[np.float32], offset: float) -> NDArray[np.float32]:
    """Round to a grid on which float32 doubles and adds such values exactly, so that ``h`` has no error of its own."""
    grid = max(2.0**-12, 2.0 * float(np.spacing(np.float32(abs(offset)))))
    return (np.round(values.astype(np.float64) / grid) * grid).astype(np.float32)


def _dropout_add_norm(p: float, norm: str) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        x, residual = _on_grid(_normal(rng, shape), offset), _on_grid(_normal(rng, shape, offset), offset)
        given = {"x": x, "residual": residual, "gamma": _gain(rng, shape[-1]), "p": p, "eps": 1e-5}
        beta = {"beta": _normal(rng, (shape[-1],))} if norm == "layer_norm" else {}
        return {**given, **beta, **_random(p)}

    return arguments


def _dropout_add_norm_backward(p: float, norm: str) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        backward = _layer_norm_backward if norm == "layer_norm" else _rms_norm_backward
        given = backward(shape, rng, offset)
        given["h"] = given.pop("x")
        return {**given, "dh": _normal(rng, shape), "p": p, **_random(p)}

    return arguments


def _random(p: float) -> Arguments:
    return {"seed": 20140615, "offset": 77} if p else {}


def _dropout(name: str) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        return {name: _normal(rng, shape, offset), "p": 0.1, "seed": 20140615, "offset": 77}

    return arguments


def _dropout_keep(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    return {"shape": shape, "p": 0.3, "seed": 20140615, "offset": 77}


def _weights(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    return {"w": _normal(rng, shape, offset), "weight_decay": 0.01}


def _whole(n: int, *steps: int, low: int, high: int) -> NDArray[np.int64]:
    """Whole numbers in [low, high], a column for each step, all over the place but the same for every seed."""
    values = (np.arange(1, n + 1)[:, np.newaxis] * np.array(steps)) % (high - low + 1) + low
    return np.ascontiguousarray(values.squeeze(1) if len(steps) == 1 else values, dtype=np.int64)


def _image_sides(shape: Shape, channel_axis: int) -> tuple[int, int]:
    """Height and width; of what is no image (a call to be refused), the last two sizes."""
    return (shape[-3], shape[-2]) if channel_axis == -1 and len(shape) == 4 else (shape[-2], shape[-1])


def _boxes(shape: Shape, channel_axis: int) -> NDArray[np.int64]:
    """Boxes of all kinds: within, across an edge, outside, empty."""
    height, width = _image_sides(shape, channel_axis)
    first = np.stack([_whole(shape[0], 5, low=-2, high=height), _whole(shape[0], 3, low=-2, high=width)], axis=1)
    return np.concatenate([first, first + _whole(shape[0], 7, 11, low=-1, high=max(height, width))], axis=1)


def _crop_images(mode: str, channel_axis: int) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        height, width = _image_sides(shape, channel_axis)
        corners = _whole(shape[0], 5, 7, low=-3, high=3)
        size = (max(1, height - 1), width + 2)
        x = _normal(rng, shape, offset)
        return {"x": x, "corners": corners, "size": size, "mode": mode, "channel_axis": channel_axis}

    return arguments


def _flip_images(channel_axis: int) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        flips = _whole(shape[0], 3, low=0, high=3)
        return {"x": _normal(rng, shape, offset), "flips": flips, "channel_axis": channel_axis}

    return arguments


def _rotate_images(channel_axis: int) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        degrees = np.float64(36.7) * _whole(shape[0], 3, low=-5, high=5)
        return {"x": _normal(rng, shape, offset), "degrees": degrees, "fill": 0.25, "channel_axis": channel_axis}

    return arguments


def _cutout_images(channel_axis: int) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        boxes = _boxes(shape, channel_axis)
        return {"x": _normal(rng, shape, offset), "boxes": boxes, "fill": 0.5, "channel_axis": channel_axis}

    return arguments


def _cutmix_images(channel_axis: int) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        x, other = _normal(rng, shape, offset), _normal(rng, shape, offset)
        return {"x": x, "other": other, "boxes": _boxes(shape, channel_axis), "channel_axis": channel_axis}

    return arguments


def _mixup_images(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    x, other = _normal(rng, shape, offset), _normal(rng, shape, offset)
    return {"x": x, "other": other, "weight": rng.uniform(0.0, 1.0, shape[0]).astype(np.float32)}


def _jitter_images(channel_axis: int) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        factors = rng.uniform(0.5, 1.5, (shape[0], 4)).astype(np.float32)
        factors[::5] = 1.0
        x = rng.uniform(0.0, 1.0, shape).astype(np.float32)  # colours, which have no offset
        return {"x": x, "factors": factors, "channel_axis": channel_axis}

    return arguments


def _gaussian_noise(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    sigma = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)
    sigma[3::5] = 0.0
    index = _whole(shape[0], 2**31 - 1, low=0, high=2**32 - 1)
    return {"x": _normal(rng, shape, offset), "sigma": sigma, "index": index, "seed": 20140615}


def _sample_uniform(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    index = _whole(shape[0], 2**31 - 1, low=0, high=2**32 - 1)
    return {"index": index, "n": math.prod(shape[1:]), "seed": 20140615}


def _sgd_step(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    w, dw, velocity = _normal(rng, shape, offset), _normal(rng, shape), _normal(rng, shape)
    return {"w": w, "dw": dw, "lr": 0.05, "weight_decay": 0.01, "momentum": 0.9, "velocity": velocity}


def _adamw_step(decoupled: bool) -> Callable[[Shape, np.random.Generator, float], Arguments]:
    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        w, dw, m = _normal(rng, shape, offset), _normal(rng, shape), _normal(rng, shape)
        v = rng.uniform(0.0, 2.0, shape).astype(np.float32)
        return {"w": w, "dw": dw, "m": m, "v": v, "step": 3, "lr": 1e-3, "decoupled": decoupled}

    return arguments


ROWS: tuple[Shape, ...] = (
    *((3, n) for n in (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 97, 127, 129, 255, 257, 1023, 1025, 4095, 4097, 16385)),
    (0, 8),
    (70, 33),
    (2, 3, 5, 48),
    (130, 1024),
)
"""Widths that straddle every lane, group and panel edge; no rows; more than two dimensions; more than one thread."""

COLUMNS: tuple[Shape, ...] = (
    (2, 1),
    (7, 5),
    (9, 17),
    (63, 15),
    (64, 16),
    (65, 33),
    (129, 513),
    (200, 1025),
    (1000, 130),
)
PLANES: tuple[Shape, ...] = (
    (2, 1, 2),
    (3, 5, 7),
    (4, 3, 2, 2),
    (5, 33, 7, 7),
    (2, 3, 56, 56),
    (2, 2, 65, 65),
    (1, 2, 16385),
)
CHANNELS_LAST: tuple[Shape, ...] = ((2, 3, 5), (4, 7, 7, 33), (3, 20, 20, 130))
ELEMENTS: tuple[Shape, ...] = (
    *((n,) for n in (0, 1, 15, 17, 63, 65, 127, 128, 129, 1000, 4097)),
    (3, 5, 7),
    (130, 1025),
)
MAPS: tuple[Shape, ...] = ((0, 3, 2), (3, 5), (2, 3, 17), (5, 200, 3), (4, 33, 7, 7), (2, 40, 33, 65))

IMAGES: tuple[Shape, ...] = ((1, 1, 1, 1), (4, 3, 5, 2), (3, 1, 1, 7), (9, 3, 8, 9), (6, 3, 17, 33), (2, 3, 65, 97))
IMAGES_LAST: tuple[Shape, ...] = (
    (1, 1, 1, 1),
    (4, 5, 2, 3),
    (3, 1, 7, 1),
    (9, 8, 9, 3),
    (6, 17, 33, 3),
    (2, 65, 97, 3),
)
"""Odd sizes, lines and single pixels; in colour and in gray."""


def _image_cases() -> list[Case]:
    rows = []
    for label, axis, shapes in (("N, C, H, W", 1, IMAGES), ("N, H, W, C", -1, IMAGES_LAST)):
        rows += [
            Case("crop_images", _crop_images("zero", axis), shapes, {"y": MOVED}, {}, 8, f"zero, {label}"),
            Case("crop_images", _crop_images("reflect", axis), shapes, {"y": MOVED}, {}, 8, f"reflect, {label}"),
            Case("flip_images", _flip_images(axis), shapes, {"y": MOVED}, {}, 8, label),
            Case("rotate_images", _rotate_images(axis), shapes, {"y": TURNED}, {}, 8, label),
            Case("cutout_images", _cutout_images(axis), shapes, {"y": MOVED}, {}, 8, label),
            Case("cutmix_images", _cutmix_images(axis), shapes, {"y": MOVED}, {}, 12, label),
            Case("jitter_images", _jitter_images(axis), shapes, {"y": JITTERED}, {}, 12, label),
        ]
    return rows


def _batch_norm_cases() -> list[Case]:
    layouts = (("N, C", 1, COLUMNS), ("N, C, ...", 1, PLANES), ("..., C", -1, CHANNELS_LAST))
    gradients = {"dx": GRADIENT, "dgamma": COLUMN_SUM, "dbeta": COLUMN_SUM}
    training = {"y": NORMALISED, "mean": STATISTIC, "rstd": INVERSE_DEVIATION}
    running = {"running_mean": RUNNING, "running_var": RUNNING}
    rows = []
    for label, axis, shapes in layouts:
        rows += [
            Case("batch_norm", _batch_norm(axis), shapes, {"y": NORMALISED}, {}, 8, label),
            Case("batch_norm_forward", _batch_norm_forward(axis), shapes, training, running, 12, label),
            Case("batch_norm_backward", _batch_norm_backward(axis), shapes, gradients, {}, 20, label),
            Case(
                "batch_norm_inference_backward", _batch_norm_inference_backward(axis), shapes, gradients, {}, 12, label
            ),
        ]
    return rows


def _dropout_add_norm_cases() -> list[Case]:
    rows = []
    for norm in ("layer_norm", "rms_norm"):
        centred = norm == "layer_norm"
        mean = {"mean": STATISTIC_OF_SUM} if centred else {}
        dbeta = {"dbeta": COLUMN_SUM} if centred else {}
        forward = {"y": NORMALISED, "h": EXACT, **mean, "rstd": INVERSE_DEVIATION}
        backward = {"dx": GRADIENT, "dresidual": GRADIENT, "dgamma": COLUMN_SUM, **dbeta}
        for p in (0.5, 0.0):
            op = f"dropout_add_{norm}"
            rows += [
                Case(f"{op}_forward", _dropout_add_norm(p, norm), ROWS, forward, {}, 16, f"p = {p:g}"),
                Case(f"{op}_backward", _dropout_add_norm_backward(p, norm), ROWS, backward, {}, 20, f"p = {p:g}"),
            ]
    return rows


CASES: tuple[Case, ...] = (
    Case("layer_norm", _layer_norm, ROWS, {"y": NORMALISED}, {}, 8),
    Case(
        "layer_norm_forward", _layer_norm, ROWS, {"y": NORMALISED, "mean": STATISTIC, "rstd": INVERSE_DEVIATION}, {}, 8
    ),
    Case(
        "layer_norm_backward",
        _layer_norm_backward,
        ROWS,
        {"dx": GRADIENT, "dgamma": COLUMN_SUM, "dbeta": COLUMN_SUM},
        {},
        12,
    ),
    Case("rms_norm", _rms_norm, ROWS, {"y": NORMALISED}, {}, 8),
    Case("rms_norm_forward", _rms_norm, ROWS, {"y": NORMALISED, "rstd": INVERSE_DEVIATION}, {}, 8),
    Case("rms_norm_backward", _rms_norm_backward, ROWS, {"dx": GRADIENT, "dgamma": COLUMN_SUM}, {}, 12),
    *_batch_norm_cases(),
    *_dropout_add_norm_cases(),
    Case("dropout", _dropout("x"), ELEMENTS, {"y": SCALED}, {}, 8),
    Case("dropout_backward", _dropout("dy"), ELEMENTS, {"dx": SCALED}, {}, 8),
    Case("dropout_keep", _dropout_keep, ELEMENTS, {"keep": EXACT}, {}, 1),
    Case("spatial_dropout", _dropout("x"), MAPS, {"y": SCALED}, {}, 8),
    Case("spatial_dropout_backward", _dropout("dy"), MAPS, {"dx": SCALED}, {}, 8),
    *_image_cases(),
    Case("mixup_images", _mixup_images, IMAGES, {"y": MIXED}, {}, 12),
    Case("gaussian_noise", _gaussian_noise, MAPS, {"y": NOISY}, {}, 8),
    Case("sample_uniform", _sample_uniform, MAPS, {"u": UNIFORM}, {}, 8),
    Case("l2_penalty", _weights, ELEMENTS, {"penalty": PENALTY}, {}, 4),
    Case("l2_gradient", _weights, ELEMENTS, {"dw": SCALED}, {}, 8),
    Case("sgd_step", _sgd_step, ELEMENTS, {}, stepped("w", "velocity"), 20),
    Case("adamw_step", _adamw_step(True), ELEMENTS, {}, stepped("w", "m", "v"), 28, "decoupled"),
    Case("adamw_step", _adamw_step(False), ELEMENTS, {}, stepped("w", "m", "v"), 28, "coupled"),
)
"""Every op of the functional API, at least once."""
