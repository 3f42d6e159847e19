"""All ops of the oracle: signatures, the `out` argument, and the dtypes that they accept."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

from cregkit import oracle

Array: TypeAlias = np.ndarray[Any, Any]

MODIFIERS = "clipvalue=None, scale=1.0, l1=0.0, average=None, ema_momentum=0.99"
SIGNATURES = {
    "layer_norm": "(x, gamma=None, beta=None, eps=1e-05, *, axis=-1, out=None)",
    "layer_norm_forward": "(x, gamma=None, beta=None, eps=1e-05, *, axis=-1, out=None)",
    "layer_norm_backward": "(dy, x, mean, rstd, gamma=None, *, axis=-1, out=None)",
    "rms_norm": "(x, gamma=None, eps=1e-06, *, axis=-1, gain_offset=0.0, out=None)",
    "rms_norm_forward": "(x, gamma=None, eps=1e-06, *, axis=-1, gain_offset=0.0, out=None)",
    "rms_norm_backward": "(dy, x, rstd, gamma=None, *, axis=-1, gain_offset=0.0, out=None)",
    "batch_norm": "(x, mean, var, gamma=None, beta=None, eps=1e-05, *, channel_axis=1, out=None)",
    "batch_norm_forward": (
        "(x, gamma=None, beta=None, running_mean=None, running_var=None, momentum=0.1, eps=1e-05,"
        " *, unbiased=False, channel_axis=1, merge=None, out=None)"
    ),
    "batch_norm_backward": "(dy, x, mean, rstd, gamma=None, *, channel_axis=1, merge=None, out=None)",
    "batch_norm_inference_backward": "(dy, x, mean, var, gamma=None, eps=1e-05, *, channel_axis=1, out=None)",
    "ghost_batch_norm_forward": (
        "(x, virtual_batch_size, gamma=None, beta=None, running_mean=None, running_var=None, momentum=0.1, eps=1e-05,"
        " *, unbiased=False, channel_axis=1, out=None)"
    ),
    "ghost_batch_norm_backward": "(dy, x, virtual_batch_size, mean, rstd, gamma=None, *, channel_axis=1, out=None)",
    "group_norm": "(x, num_groups, gamma=None, beta=None, eps=1e-05, *, channel_axis=1, out=None)",
    "group_norm_forward": "(x, num_groups, gamma=None, beta=None, eps=1e-05, *, channel_axis=1, out=None)",
    "group_norm_backward": "(dy, x, mean, rstd, gamma=None, *, channel_axis=1, out=None)",
    "instance_norm": "(x, gamma=None, beta=None, eps=1e-05, *, channel_axis=1, out=None)",
    "instance_norm_forward": (
        "(x, gamma=None, beta=None, running_mean=None, running_var=None, momentum=0.1, eps=1e-05,"
        " *, channel_axis=1, out=None)"
    ),
    "instance_norm_backward": "(dy, x, mean, rstd, gamma=None, *, channel_axis=1, out=None)",
    "dropout": "(x, p=0.5, *, seed, offset=0, out=None)",
    "dropout_backward": "(dy, p=0.5, *, seed, offset=0, out=None)",
    "spatial_dropout": "(x, p=0.5, *, seed, offset=0, channel_axis=1, out=None)",
    "spatial_dropout_backward": "(dy, p=0.5, *, seed, offset=0, channel_axis=1, out=None)",
    "drop_path": "(x, p=0.5, *, seed, offset=0, mode='row', out=None)",
    "drop_path_backward": "(dy, p=0.5, *, seed, offset=0, mode='row', out=None)",
    "drop_block": "(x, p=0.1, block_size=7, *, seed, offset=0, channel_axis=1, out=None)",
    "drop_block_backward": "(dy, p=0.1, block_size=7, *, seed, offset=0, channel_axis=1, out=None)",
    "alpha_dropout": "(x, p=0.5, *, seed, offset=0, out=None)",
    "alpha_dropout_backward": "(dy, p=0.5, *, seed, offset=0, out=None)",
    "feature_alpha_dropout": "(x, p=0.5, *, seed, offset=0, channel_axis=1, out=None)",
    "feature_alpha_dropout_backward": "(dy, p=0.5, *, seed, offset=0, channel_axis=1, out=None)",
    "dropout_add_layer_norm_forward": (
        "(x, residual, gamma=None, beta=None, p=0.0, eps=1e-05, *, seed=None, offset=0, out=None)"
    ),
    "dropout_add_layer_norm_backward": "(dy, h, mean, rstd, gamma=None, p=0.0, *, dh=None, seed=None, offset=0)",
    "dropout_add_rms_norm_forward": (
        "(x, residual, gamma=None, p=0.0, eps=1e-06, *, gain_offset=0.0, seed=None, offset=0, out=None)"
    ),
    "dropout_add_rms_norm_backward": (
        "(dy, h, rstd, gamma=None, p=0.0, *, gain_offset=0.0, dh=None, seed=None, offset=0)"
    ),
    "dropout_keep": "(shape, p=0.5, *, seed, offset=0)",
    "cutout_images": "(x, boxes, fill=0.0, *, channel_axis=1, out=None)",
    "cutmix_images": "(x, other, boxes, *, channel_axis=1, out=None)",
    "crop_images": "(x, corners, size, *, mode='zero', channel_axis=1)",
    "flip_images": "(x, flips, *, channel_axis=1, out=None)",
    "rotate_images": "(x, degrees, fill=0.0, *, channel_axis=1)",
    "mixup_images": "(x, other, weight, *, out=None)",
    "jitter_images": "(x, factors, *, channel_axis=1, out=None)",
    "gaussian_noise": "(x, sigma, index, *, seed, out=None)",
    "sample_uniform": "(index, n, *, seed)",
    "l2_penalty": "(w, weight_decay)",
    "l2_gradient": "(w, weight_decay, *, out=None)",
    "sum_squares": "(x, *, clipvalue=None)",
    "sgd_step": f"(w, dw, lr, *, weight_decay=0.0, momentum=0.0, velocity=None, {MODIFIERS})",
    "adamw_step": (
        f"(w, dw, m, v, step, lr, *, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, decoupled=True, {MODIFIERS})"
    ),
    "max_norm": "(w, max_value, *, average=None, ema_momentum=0.99)",
}


def test_every_public_op_has_a_signature_here() -> None:
    assert sorted(oracle.__all__) == sorted(SIGNATURES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signature_is_the_documented_one(name: str) -> None:
    signature = inspect.signature(getattr(oracle, name))
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == SIGNATURES[name]


def inputs() -> dict[str, Array]:
    """Arguments by name. Every op accepts the shape (4, 3, 3): three channels in either layout."""
    rng = np.random.default_rng(12)
    arrays = {name: rng.standard_normal((4, 3, 3)) for name in ("x", "dy", "w")}
    arrays |= {name: rng.uniform(1, 2, 3) for name in ("gamma", "beta", "channel_mean", "channel_var")}
    return arrays | {name: rng.uniform(0, 1, (2, 3, 4, 5)) for name in ("images", "other")}


FLIPS, BOXES = np.array([1, 2]), np.array([[1, 1, 3, 3], [0, 0, 2, 5]])
FACTORS = np.array([[0.5, 1.5, 0.7, 0.3], [1.2, 0.8, 1.4, 0.6]])
RANDOM = {"p": 0.4, "seed": 5, "offset": 6}


def layer_norm_backward(a: dict[str, Array], out: Array | None) -> Any:
    _, mean, rstd = oracle.layer_norm_forward(a["x"].copy())
    return oracle.layer_norm_backward(a["dy"], a["x"], mean, rstd, a["gamma"], out=out)


def rms_norm_backward(a: dict[str, Array], out: Array | None) -> Any:
    _, rstd = oracle.rms_norm_forward(a["x"].copy())
    return oracle.rms_norm_backward(a["dy"], a["x"], rstd, a["gamma"], out=out)


def batch_norm_backward(a: dict[str, Array], out: Array | None) -> Any:
    _, mean, rstd = oracle.batch_norm_forward(a["x"].copy())
    return oracle.batch_norm_backward(a["dy"], a["x"], mean, rstd, a["gamma"], out=out)


def batch_norm_inference_backward(a: dict[str, Array], out: Array | None) -> Any:
    return oracle.batch_norm_inference_backward(
        a["dy"], a["x"], a["channel_mean"], a["channel_var"], a["gamma"], out=out
    )


def ghost_batch_norm_backward(a: dict[str, Array], out: Array | None) -> Any:
    _, mean, rstd = oracle.ghost_batch_norm_forward(a["x"].copy(), 2)
    return oracle.ghost_batch_norm_backward(a["dy"], a["x"], 2, mean, rstd, a["gamma"], out=out)


def group_norm_backward(a: dict[str, Array], out: Array | None) -> Any:
    _, mean, rstd = oracle.group_norm_forward(a["x"].copy(), 1)
    return oracle.group_norm_backward(a["dy"], a["x"], mean, rstd, a["gamma"], out=out)


def instance_norm_backward(a: dict[str, Array], out: Array | None) -> Any:
    _, mean, rstd = oracle.instance_norm_forward(a["x"].copy())
    return oracle.instance_norm_backward(a["dy"], a["x"], mean, rstd, a["gamma"], out=out)


# Every op with an `out`, as a call on `inputs`, and the inputs that may be that `out`.
CALLS: dict[str, tuple[Callable[[dict[str, Array], Array | None], Any], list[str]]] = {
    "layer_norm": (lambda a, out: oracle.layer_norm(a["x"], a["gamma"], a["beta"], out=out), ["x"]),
    "layer_norm_forward": (lambda a, out: oracle.layer_norm_forward(a["x"], a["gamma"], out=out), ["x"]),
    "layer_norm_backward": (layer_norm_backward, ["dy", "x"]),
    "rms_norm": (lambda a, out: oracle.rms_norm(a["x"], a["gamma"], out=out), ["x"]),
    "rms_norm_forward": (lambda a, out: oracle.rms_norm_forward(a["x"], a["gamma"], out=out), ["x"]),
    "rms_norm_backward": (rms_norm_backward, ["dy", "x"]),
    "batch_norm": (lambda a, out: oracle.batch_norm(a["x"], a["channel_mean"], a["channel_var"], out=out), ["x"]),
    "batch_norm_forward": (lambda a, out: oracle.batch_norm_forward(a["x"], a["gamma"], out=out), ["x"]),
    "batch_norm_backward": (batch_norm_backward, ["dy", "x"]),
    "batch_norm_inference_backward": (batch_norm_inference_backward, ["dy", "x"]),
    "ghost_batch_norm_forward": (lambda a, out: oracle.ghost_batch_norm_forward(a["x"], 2, a["gamma"], out=out), ["x"]),
    "ghost_batch_norm_backward": (ghost_batch_norm_backward, ["dy", "x"]),
    "group_norm": (lambda a, out: oracle.group_norm(a["x"], 3, a["gamma"], a["beta"], out=out), ["x"]),
    "group_norm_forward": (lambda a, out: oracle.group_norm_forward(a["x"], 1, a["gamma"], out=out), ["x"]),
    "group_norm_backward": (group_norm_backward, ["dy", "x"]),
    "instance_norm": (lambda a, out: oracle.instance_norm(a["x"], a["gamma"], a["beta"], out=out), ["x"]),
    "instance_norm_forward": (lambda a, out: oracle.instance_norm_forward(a["x"], a["gamma"], out=out), ["x"]),
    "instance_norm_backward": (instance_norm_backward, ["dy", "x"]),
    **{
        op: (lambda a, out, op=op, name=name: getattr(oracle, op)(a[name], **RANDOM, out=out), [name])  # type: ignore[misc]
        for forward in ("dropout", "spatial_dropout", "drop_path", "alpha_dropout", "feature_alpha_dropout")
        for op, name in ((forward, "x"), (f"{forward}_backward", "dy"))
    },
    "drop_block": (lambda a, out: oracle.drop_block(a["images"], block_size=2, **RANDOM, out=out), ["images"]),
    "drop_block_backward": (
        lambda a, out: oracle.drop_block_backward(a["images"], block_size=2, **RANDOM, out=out),
        ["images"],
    ),
    "dropout_add_layer_norm_forward": (
        lambda a, out: oracle.dropout_add_layer_norm_forward(a["x"], a["dy"], a["gamma"], **RANDOM, out=out),
        ["x", "dy"],
    ),
    "dropout_add_rms_norm_forward": (
        lambda a, out: oracle.dropout_add_rms_norm_forward(a["x"], a["dy"], a["gamma"], **RANDOM, out=out),
        ["x", "dy"],
    ),
    "flip_images": (lambda a, out: oracle.flip_images(a["images"], FLIPS, out=out), ["images"]),
    "cutout_images": (lambda a, out: oracle.cutout_images(a["images"], BOXES, out=out), ["images"]),
    "cutmix_images": (lambda a, out: oracle.cutmix_images(a["images"], a["other"], BOXES, out=out), ["images"]),
    "mixup_images": (
        lambda a, out: oracle.mixup_images(a["images"], a["other"], [0.3, 0.6], out=out),
        ["images", "other"],
    ),
    "jitter_images": (lambda a, out: oracle.jitter_images(a["images"], FACTORS, out=out), ["images"]),
    "gaussian_noise": (
        lambda a, out: oracle.gaussian_noise(a["images"], [0.3, 0.6], np.arange(2), seed=3, out=out),
        ["images"],
    ),
    "l2_gradient": (lambda a, out: oracle.l2_gradient(a["w"], 0.3, out=out), ["w"]),
}


def as_tuple(results: Any) -> tuple[Array, ...]:
    return results if isinstance(results, tuple) else (results,)


def test_every_op_with_an_out_is_called_here() -> None:
    assert set(CALLS) == {name for name, signature in SIGNATURES.items() if "out=" in signature}


@pytest.mark.parametrize("name", CALLS)
def test_out_receives_the_rounded_result(name: str) -> None:
    call, _ = CALLS[name]
    arrays = inputs()
    for array in arrays.values():
        array.setflags(write=False)
    result, *others = as_tuple(call(arrays, None))
    assert result.dtype == np.float64
    assert not any(np.shares_memory(result, array) for array in arrays.values())
    out = np.full(result.shape, np.nan, dtype=np.float32)
    returned, *same_others = as_tuple(call(arrays, out))
    assert returned is out
    assert np.array_equal(out, result.astype(np.float32))
    for one, other in zip(others, same_others, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(("name", "alias"), [(name, alias) for name, (_, names) in CALLS.items() for alias in names])
def test_out_may_be_an_input(name: str, alias: str) -> None:
    call, _ = CALLS[name]
    expected = as_tuple(call(inputs(), None))
    arrays = inputs()
    actual = as_tuple(call(arrays, arrays[alias]))
    assert actual[0] is arrays[alias]
    for one, other in zip(actual, expected, strict=True):
        assert np.array_equal(one, other)


def test_an_overflow_of_a_narrow_out_is_inf() -> None:
    x = np.float32([3e38, -3e38, 1.0])
    out = np.empty(3, dtype=np.float32)
    assert oracle.dropout(x, 0.0, seed=0, out=out).tolist() == x.tolist()
    assert oracle.l2_gradient(x, 10.0, out=out).tolist() == [np.inf, -np.inf, 10.0]
    running_var = np.ones(1, dtype=np.float32)
    oracle.batch_norm_forward(x[:, np.newaxis], running_var=running_var)
    assert running_var.tolist() == [np.inf]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int32, np.uint8])
def test_any_real_dtype_is_computed_in_float64(dtype: type[np.generic]) -> None:
    values = np.array([[1, 2, 4], [7, 0, 3]])
    x = values.astype(dtype)
    norms = [oracle.layer_norm, oracle.rms_norm, lambda x: oracle.batch_norm_forward(x)[0]]
    for op in (*norms, lambda x: oracle.group_norm(x, 1)):
        assert op(x).dtype == np.float64
        assert np.array_equal(op(x), op(values.astype(np.float64)))
    assert oracle.dropout(x, seed=0).dtype == np.float64
    assert oracle.l2_penalty(x, 2.0) == 79.0
