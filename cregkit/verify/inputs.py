"""Inputs of the ops: each function returns fresh keyword arguments of an op for a shape.

The data are ``offset + N(0, 1)``; ``rng`` is where the random numbers come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import NDArray

from cregkit import oracle
from cregkit.verify.shapes import Shape

Arguments: TypeAlias = dict[str, Any]


def _normal(rng: np.random.Generator, shape: Shape, offset: float = 0.0) -> NDArray[np.float32]:
    return (offset + rng.standard_normal(shape)).astype(np.float32)


def _gain(rng: np.random.Generator, shape: int | Shape) -> NDArray[np.float32]:
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def _features(shape: Shape, *, axis: int | tuple[int, ...] = -1, **others: Any) -> Shape:
    """Return the shape of the axes that are normalised."""
    return tuple(shape[a] for a in sorted(normalize_axis_tuple(axis, len(shape))))


def layer_norm(shape: Shape, rng: np.random.Generator, offset: float, **options: Any) -> Arguments:
    features = _features(shape, **options)
    x, gamma, beta = _normal(rng, shape, offset), _gain(rng, features), _normal(rng, features)
    return {"x": x, "gamma": gamma, "beta": beta, "eps": 1e-5, **options}


def layer_norm_backward(shape: Shape, rng: np.random.Generator, offset: float, **options: Any) -> Arguments:
    x = _normal(rng, shape, offset)
    _, mean, rstd = oracle.layer_norm_forward(x, **options)
    dy, gamma = _normal(rng, shape), _gain(rng, _features(shape, **options))
    return {"dy": dy, "x": x, "mean": mean, "rstd": rstd, "gamma": gamma, **options}


def rms_norm(shape: Shape, rng: np.random.Generator, offset: float, **options: Any) -> Arguments:
    x, gamma = _normal(rng, shape, offset), _gain(rng, _features(shape, **options))
    return {"x": x, "gamma": gamma, "eps": 1e-6, **options}


def rms_norm_backward(shape: Shape, rng: np.random.Generator, offset: float, **options: Any) -> Arguments:
    x = _normal(rng, shape, offset)
    _, rstd = oracle.rms_norm_forward(x, **options)
    dy, gamma = _normal(rng, shape), _gain(rng, _features(shape, **options))
    return {"dy": dy, "x": x, "rstd": rstd, "gamma": gamma, **options}


def batch_norm_forward(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    c = shape[channel_axis]
    return {
        "x": _normal(rng, shape, offset),
        "gamma": _gain(rng, c),
        "beta": _normal(rng, (c,)),
        "running_mean": _normal(rng, (c,), offset),
        "running_var": _gain(rng, c),
        "channel_axis": channel_axis,
    }


def batch_norm_backward(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    x = _normal(rng, shape, offset)
    _, mean, rstd = oracle.batch_norm_forward(x, channel_axis=channel_axis)
    gamma = _gain(rng, shape[channel_axis])
    dy = _normal(rng, shape)
    return {"dy": dy, "x": x, "mean": mean, "rstd": rstd, "gamma": gamma, "channel_axis": channel_axis}


def batch_norm(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    c = shape[channel_axis]
    return {
        "x": _normal(rng, shape, offset),
        "mean": _normal(rng, (c,), offset),
        "var": _gain(rng, c),
        "gamma": _gain(rng, c),
        "beta": _normal(rng, (c,)),
        "eps": 1e-5,
        "channel_axis": channel_axis,
    }


def batch_norm_inference_backward(
    shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int
) -> Arguments:
    given = batch_norm(shape, rng, offset, channel_axis=channel_axis)
    del given["beta"]
    return {"dy": _normal(rng, shape), **given}


def virtual_batch_size(samples: int) -> int:
    """Return the samples of a virtual batch: half of all, but at least 2 and at most 128, as in the paper."""
    return min(128, max(2, (samples + 1) // 2))


def ghost_batch_norm_forward(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    given = batch_norm_forward(shape, rng, offset, channel_axis=channel_axis)
    return {**given, "virtual_batch_size": virtual_batch_size(shape[0])}


def ghost_batch_norm_backward(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    given = ghost_batch_norm_forward(shape, rng, offset, channel_axis=channel_axis)
    common = {name: given[name] for name in ("x", "virtual_batch_size", "channel_axis")}
    _, mean, rstd = oracle.ghost_batch_norm_forward(**common)
    return {"dy": _normal(rng, shape), "mean": mean, "rstd": rstd, "gamma": given["gamma"], **common}


def groups_of(channels: int) -> int:
    """Return the number of groups: 32, as in the paper, or the largest power of 2 below that divides the channels."""
    return math.gcd(channels, 32)


def group_norm(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    given = instance_norm(shape, rng, offset, channel_axis=channel_axis)
    return {**given, "num_groups": groups_of(shape[channel_axis])}


def group_norm_backward(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    return _grouped_backward(shape, rng, offset, channel_axis, groups_of(shape[channel_axis]))


def instance_norm(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    c = shape[channel_axis]
    x, gamma, beta = _normal(rng, shape, offset), _gain(rng, c), _normal(rng, (c,))
    return {"x": x, "gamma": gamma, "beta": beta, "eps": 1e-5, "channel_axis": channel_axis}


def instance_norm_backward(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    return _grouped_backward(shape, rng, offset, channel_axis, shape[channel_axis])


def _grouped_backward(
    shape: Shape, rng: np.random.Generator, offset: float, channel_axis: int, num_groups: int
) -> Arguments:
    x = _normal(rng, shape, offset)
    _, mean, rstd = oracle.group_norm_forward(x, num_groups, channel_axis=channel_axis)
    dy, gamma = _normal(rng, shape), _gain(rng, shape[channel_axis])
    return {"dy": dy, "x": x, "mean": mean, "rstd": rstd, "gamma": gamma, "channel_axis": channel_axis}


def _on_grid(values: NDArray[np.float32], offset: float) -> NDArray[np.float32]:
    """Round to a grid on which float32 doubles and adds such values exactly, so that ``h`` has no error of its own."""
    grid = max(2.0**-12, 2.0 * float(np.spacing(np.float32(abs(offset)))))
    return (np.round(values.astype(np.float64) / grid) * grid).astype(np.float32)


def dropout_add_norm(
    shape: Shape, rng: np.random.Generator, offset: float, *, p: float, norm: str, **options: Any
) -> Arguments:
    x, residual = _on_grid(_normal(rng, shape), offset), _on_grid(_normal(rng, shape, offset), offset)
    given = {"x": x, "residual": residual, "gamma": _gain(rng, shape[-1]), "p": p, "eps": 1e-5}
    beta = {"beta": _normal(rng, (shape[-1],))} if norm == "layer_norm" else {}
    return {**given, **beta, **options, **_random(p)}


def dropout_add_norm_backward(
    shape: Shape, rng: np.random.Generator, offset: float, *, p: float, norm: str, **options: Any
) -> Arguments:
    backward = layer_norm_backward if norm == "layer_norm" else rms_norm_backward
    given = backward(shape, rng, offset, **options)
    given["h"] = given.pop("x")
    return {**given, "dh": _normal(rng, shape), "p": p, **_random(p)}


def _random(p: float) -> Arguments:
    return {"seed": 20140615, "offset": 77} if p else {}


def dropout(shape: Shape, rng: np.random.Generator, offset: float, *, name: str, **options: Any) -> Arguments:
    return {name: _normal(rng, shape, offset), "p": 0.1, "seed": 20140615, "offset": 77, **options}


def dropout_keep(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    return {"shape": shape, "p": 0.3, "seed": 20140615, "offset": 77}


def weights(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    return {"w": _normal(rng, shape, offset), "weight_decay": 0.01}


def _whole(n: int, *steps: int, low: int, high: int) -> NDArray[np.int64]:
    """Return whole numbers scattered in [low, high], a column for each step, the same for every seed."""
    values = (np.arange(1, n + 1)[:, np.newaxis] * np.array(steps)) % (high - low + 1) + low
    return np.ascontiguousarray(values.squeeze(1) if len(steps) == 1 else values, dtype=np.int64)


def _image_sides(shape: Shape, channel_axis: int) -> tuple[int, int]:
    """Return height and width, or the last two sizes of a shape that is no image, whose call must fail."""
    return (shape[-3], shape[-2]) if channel_axis == -1 and len(shape) == 4 else (shape[-2], shape[-1])


def _boxes(shape: Shape, channel_axis: int) -> NDArray[np.int64]:
    """Return boxes of all kinds: within, across an edge, outside, empty."""
    height, width = _image_sides(shape, channel_axis)
    first = np.stack([_whole(shape[0], 5, low=-2, high=height), _whole(shape[0], 3, low=-2, high=width)], axis=1)
    return np.concatenate([first, first + _whole(shape[0], 7, 11, low=-1, high=max(height, width))], axis=1)


def crop_images(shape: Shape, rng: np.random.Generator, offset: float, *, mode: str, channel_axis: int) -> Arguments:
    height, width = _image_sides(shape, channel_axis)
    corners = _whole(shape[0], 5, 7, low=-3, high=3)
    size = (max(1, height - 1), width + 2)
    x = _normal(rng, shape, offset)
    return {"x": x, "corners": corners, "size": size, "mode": mode, "channel_axis": channel_axis}


def flip_images(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    flips = _whole(shape[0], 3, low=0, high=3)
    return {"x": _normal(rng, shape, offset), "flips": flips, "channel_axis": channel_axis}


def rotate_images(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    degrees = np.float64(36.7) * _whole(shape[0], 3, low=-5, high=5)
    return {"x": _normal(rng, shape, offset), "degrees": degrees, "fill": 0.25, "channel_axis": channel_axis}


def cutout_images(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    boxes = _boxes(shape, channel_axis)
    return {"x": _normal(rng, shape, offset), "boxes": boxes, "fill": 0.5, "channel_axis": channel_axis}


def cutmix_images(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    x, other = _normal(rng, shape, offset), _normal(rng, shape, offset)
    return {"x": x, "other": other, "boxes": _boxes(shape, channel_axis), "channel_axis": channel_axis}


def mixup_images(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    x, other = _normal(rng, shape, offset), _normal(rng, shape, offset)
    return {"x": x, "other": other, "weight": rng.uniform(0.0, 1.0, shape[0]).astype(np.float32)}


def jitter_images(shape: Shape, rng: np.random.Generator, offset: float, *, channel_axis: int) -> Arguments:
    factors = rng.uniform(0.5, 1.5, (shape[0], 4)).astype(np.float32)
    factors[::5] = 1.0
    x = rng.uniform(0.0, 1.0, shape).astype(np.float32)  # colours, which have no offset
    return {"x": x, "factors": factors, "channel_axis": channel_axis}


def gaussian_noise(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    sigma = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)
    sigma[3::5] = 0.0
    index = _whole(shape[0], 2**31 - 1, low=0, high=2**32 - 1)
    return {"x": _normal(rng, shape, offset), "sigma": sigma, "index": index, "seed": 20140615}


def sample_uniform(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    index = _whole(shape[0], 2**31 - 1, low=0, high=2**32 - 1)
    return {"index": index, "n": math.prod(shape[1:]), "seed": 20140615}


def gradients(shape: Shape, rng: np.random.Generator, offset: float, **options: float) -> Arguments:
    return {"x": _normal(rng, shape, offset), **options}


def max_norm(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    """About half of the norms exceed the limit."""
    w, average = _normal(rng, shape, offset), _normal(rng, shape)
    limit = math.sqrt(max(1, math.prod(shape[1:])) * (1.0 + offset**2))
    return {"w": w, "max_value": limit, "average": average, "ema_momentum": 0.9}


def modified(arguments: Callable[..., Arguments], shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    """Add to the arguments of a step all that it does besides its update."""
    options = {"clipvalue": 1.5, "scale": 0.7, "l1": 0.3, "ema_momentum": 0.9}
    return arguments(shape, rng, offset) | options | {"average": _normal(rng, shape)}


def sgd_step(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
    w, dw, velocity = _normal(rng, shape, offset), _normal(rng, shape), _normal(rng, shape)
    return {"w": w, "dw": dw, "lr": 0.05, "weight_decay": 0.01, "momentum": 0.9, "velocity": velocity}


def adamw_step(shape: Shape, rng: np.random.Generator, offset: float, *, decoupled: bool) -> Arguments:
    w, dw, m = _normal(rng, shape, offset), _normal(rng, shape), _normal(rng, shape)
    v = rng.uniform(0.0, 2.0, shape).astype(np.float32)
    return {"w": w, "dw": dw, "m": m, "v": v, "step": 3, "lr": 1e-3, "decoupled": decoupled}
