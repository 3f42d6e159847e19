"""Ghost batch norm is the batch norm of each virtual batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support import THREADS, Array, bits, each_isa

from cregkit import functional, oracle
from cregkit.kernels._threads import exact_threads
from cregkit.verify.shapes import Shape

# x, the size of a virtual batch and the axis of the channels. Virtual batches that do and do not divide N; one for all.
CALLS: tuple[tuple[Shape, int, int], ...] = (
    ((8, 5), 4, 1),
    ((67, 33), 16, 1),
    ((300, 1025), 64, 1),
    ((4, 9), 9, 1),
    ((6, 3, 7, 7), 2, 1),
    ((7, 3, 7, 7), 3, 1),
    ((9, 70, 7, 7), 1, 1),
    ((6, 20, 65), 3, 1),
    ((5, 2, 5000), 2, 1),
    ((6, 20, 3, 4, 5), 4, 1),
    ((6, 7, 7, 33), 2, -1),
    ((5, 3, 4, 5, 20), 2, -1),
    ((3, 30, 600), 1, -1),
)
each_call = pytest.mark.parametrize(("shape", "size", "axis"), CALLS)


def data(shape: Shape, axis: int, scale: float = 1.0) -> tuple[Array, Array, Array, Array]:
    """x, dy, gamma and beta."""
    rng = np.random.default_rng(len(shape) + shape[0])
    x, dy = rng.uniform(-1.0, 1.0, (2, *shape))
    gamma, beta = rng.uniform(0.5, 1.5, (2, shape[axis])).astype(np.float32)
    return (scale * x).astype(np.float32), dy.astype(np.float32), gamma, beta


def slices(samples: int, size: int) -> Iterator[slice]:
    return (slice(i, i + size) for i in range(0, samples, size))


def forward_and_backward(
    x: Array, dy: Array, size: int, gamma: Array | None, beta: Array | None, eps: float, axis: int
) -> dict[str, Array]:
    y, mean, rstd = functional.ghost_batch_norm_forward(x, size, gamma, beta, eps=eps, channel_axis=axis)
    dx, dgamma, dbeta = functional.ghost_batch_norm_backward(dy, x, size, mean, rstd, gamma, channel_axis=axis)
    sums = {} if dgamma is None or dbeta is None else {"dgamma": dgamma, "dbeta": dbeta}
    return {"y": y, "mean": mean, "rstd": rstd, "dx": dx, **sums}


@pytest.mark.parametrize("scale", [1.0, 3e38, 1e-30, 1e-44])
@pytest.mark.parametrize("affine", [True, False])
@each_call
def test_each_virtual_batch_has_the_bits_of_batch_norm(
    shape: Shape, size: int, axis: int, affine: bool, scale: float
) -> None:
    x, dy, *given = data(shape, axis, scale)
    gamma, beta = given if affine else (None, None)
    eps = 1e-5 if scale == 1.0 else 0.0
    layout: dict[str, Any] = {"channel_axis": axis}
    for isa in each_isa():
        got = forward_and_backward(x, dy, size, gamma, beta, eps, axis)
        for i, part in enumerate(slices(shape[0], size)):
            y, mean, rstd = functional.batch_norm_forward(x[part], gamma, beta, eps=eps, **layout)
            dx = functional.batch_norm_backward(dy[part], x[part], mean, rstd, gamma, **layout)[0]
            found = {"y": got["y"][part], "mean": got["mean"][i], "rstd": got["rstd"][i], "dx": got["dx"][part]}
            assert bits(found) == bits({"y": y, "mean": mean, "rstd": rstd, "dx": dx}), (isa, i)


@each_call
def test_one_virtual_batch_has_all_results_of_batch_norm(shape: Shape, size: int, axis: int) -> None:
    x, dy, gamma, beta = data(shape, axis)
    layout: dict[str, Any] = {"channel_axis": axis}
    running = [np.zeros_like(gamma), np.ones_like(gamma)]
    running_of_batch = [each.copy() for each in running]
    y, mean, rstd = functional.batch_norm_forward(x, gamma, beta, *running_of_batch, 0.3, unbiased=True, **layout)
    wanted = y, *functional.batch_norm_backward(dy, x, mean, rstd, gamma, **layout), *running_of_batch
    for many in (shape[0], shape[0] + 1, 10**400):
        y, means, rstds = functional.ghost_batch_norm_forward(
            x, many, gamma, beta, *(own := [each.copy() for each in running]), 0.3, unbiased=True, **layout
        )
        gradients = functional.ghost_batch_norm_backward(dy, x, many, means, rstds, gamma, **layout)
        assert bits(dict(enumerate((y, *gradients, *own)))) == bits(dict(enumerate(wanted)))


@each_call
def test_in_place_and_on_any_number_of_threads_the_bits_are_the_same(shape: Shape, size: int, axis: int) -> None:
    x, dy, gamma, beta = data(shape, axis)
    layout: dict[str, Any] = {"channel_axis": axis}
    found = set()
    for _ in each_isa():
        for n in THREADS:
            with exact_threads(n):
                got = forward_and_backward(x, dy, size, gamma, beta, 1e-5, axis)
                found.add(tuple(bits(got).items()))
    assert len(found) == 1
    over = x.copy()
    assert functional.ghost_batch_norm_forward(over, size, gamma, beta, **layout, out=over)[0] is over
    assert np.array_equal(over, got["y"])
    for into in ("dy", "x"):
        arrays = {"dy": dy.copy(), "x": x.copy()}
        dx, dgamma, dbeta = functional.ghost_batch_norm_backward(
            **arrays,
            virtual_batch_size=size,
            mean=got["mean"],
            rstd=got["rstd"],
            gamma=gamma,
            **layout,
            out=arrays[into],
        )
        assert bits({"dx": dx, "dgamma": dgamma, "dbeta": dbeta}) == bits(
            {k: got[k] for k in ("dx", "dgamma", "dbeta")}
        )


def test_a_batch_cut_between_virtual_batches_gives_the_same_samples() -> None:
    x, dy, gamma, beta = data((70, 33), 1)
    for isa in each_isa():
        whole = forward_and_backward(x, dy, 16, gamma, beta, 1e-5, 1)
        parts = [
            forward_and_backward(x[part], dy[part], 16, gamma, beta, 1e-5, 1) for part in (slice(48), slice(48, 70))
        ]
        for name in ("y", "mean", "rstd", "dx"):
            assert np.concatenate([part[name] for part in parts]).tobytes() == whole[name].tobytes(), (isa, name)


def test_sums_over_the_virtual_batches_are_float64() -> None:
    """In float32, the small terms would vanish beside the large ones."""
    x = np.tile(np.array([[-1.0], [1.0]], np.float32), (6, 1))
    dy = np.repeat(np.array([1e9, 3, 0, 0, -1e9, 0], np.float32), 2)[:, np.newaxis] * np.array([[0.0], [1.0]] * 6)
    for _ in each_isa():
        got = forward_and_backward(x, dy.astype(np.float32), 2, np.ones(1, np.float32), None, 0.0, 1)
        assert got["dgamma"] == got["dbeta"] == 3.0


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_running_statistics_are_rounded_once(momentum: float) -> None:
    x, _, gamma, beta = data((1000, 33), 1)
    running = np.full(33, 0.7, np.float32)
    wanted = running.astype(np.float64)
    _, mean, _ = functional.ghost_batch_norm_forward(x, 8, gamma, beta, running, None, momentum)
    for each in mean:
        wanted = (1.0 - momentum) * wanted + momentum * each
    assert np.array_equal(running, wanted.astype(np.float32))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8])
def test_virtual_batches_of_any_size_agree_with_the_oracle(size: int, unbiased: bool) -> None:
    for axis in (1, -1):
        x, dy, gamma, beta = data((7, 4, 6), axis)
        running = [np.full(len(gamma), value, np.float32) for value in (3.0, 4.0)]
        wide = [each.astype(np.float64) for each in running]
        options: dict[str, Any] = {"unbiased": unbiased, "channel_axis": axis}
        got = functional.ghost_batch_norm_forward(x, size, gamma, beta, *running, 0.4, **options)
        wanted = oracle.ghost_batch_norm_forward(x, size, gamma, beta, *wide, 0.4, **options)
        for a, b in zip((*got, *running), (*wanted, *wide), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        for a, b in zip(
            functional.ghost_batch_norm_backward(dy, x, size, *got[1:], gamma, channel_axis=axis),
            oracle.ghost_batch_norm_backward(dy, x, size, *wanted[1:], gamma, channel_axis=axis),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6 * np.abs(b).max())


@pytest.mark.parametrize(
    ("shape", "size"), [((5, 3), 2), ((9, 3), 4), ((5, 3, 1), 4), ((4, 3), 1), ((1, 3), 8), ((0, 3), 2)]
)
def test_a_virtual_batch_of_a_single_value_changes_nothing(shape: Shape, size: int) -> None:
    x, running = np.ones(shape, np.float32), np.full((2, 3), 0.5, np.float32)
    with pytest.raises(ValueError, match="x must have at least two values per channel in each virtual batch"):
        functional.ghost_batch_norm_forward(x, size, None, None, *running, out=(out := x.copy()))
    assert (running == 0.5).all()
    assert np.array_equal(out, x)
