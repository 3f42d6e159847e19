"""Few wide rows are split over threads by columns: the results have the bits of whole rows."""

from __future__ import annotations

import numpy as np
import pytest
from support import THREADS, Array, bits

import cregkit as ck
from cregkit import oracle
from cregkit.kernels._threads import exact_threads

COLS = 70_001
FEW, MANY = 3, 17  # rows that are split over threads, and rows that are not

POOR = {
    "ordinary": lambda x: None,
    "huge": lambda x: np.multiply(x[1], 1e30, out=x[1]),
    "tiny": lambda x: np.multiply(x[1], 1e-30, out=x[1]),
    "constant": lambda x: x[1].fill(3.0),
    "NaN": lambda x: x[1, 5000:5001].fill(np.nan),
    "Inf": lambda x: x[1, -1:].fill(np.inf),
}
"""Changes to the second row."""


def inputs(poor: str) -> tuple[Array, Array, Array, Array]:
    """x and dy of MANY rows, gamma and beta."""
    rng = np.random.default_rng(11)
    x, dy = rng.standard_normal((2, MANY, COLS), dtype=np.float32)
    gamma, beta = rng.standard_normal((2, COLS), dtype=np.float32)
    POOR[poor](x)
    return x, dy, gamma, beta


def results(x: Array, dy: Array, gamma: Array | None, beta: Array | None, p: float) -> dict[str, Array]:
    """All results with one row for each row of x."""
    y, mean, rstd = ck.layer_norm_forward(x, gamma, beta)
    z, scale = ck.rms_norm_forward(x, gamma)
    a, h, h_mean, h_rstd = ck.dropout_add_layer_norm_forward(x, dy, gamma, beta, p, seed=5, offset=3)
    b, g, g_rstd = ck.dropout_add_rms_norm_forward(x, dy, gamma, p, seed=5, offset=3)
    dropped = {"p": p, "seed": 5, "offset": 3}
    return {
        "layer_norm": y,
        "mean": mean,
        "rstd": rstd,
        "layer_norm_backward": ck.layer_norm_backward(dy, x, mean, rstd, gamma)[0],
        "rms_norm": z,
        "scale": scale,
        "rms_norm_backward": ck.rms_norm_backward(dy, x, scale, gamma)[0],
        "dropout_add_layer_norm": a,
        "h": h,
        "h_rstd": h_rstd,
        "dropout_add_rms_norm": b,
        "g": g,
        "g_rstd": g_rstd,
        **dict(
            zip(
                ("dx", "dh"),
                ck.dropout_add_layer_norm_backward(dy, h, h_mean, h_rstd, gamma, dh=x, **dropped)[:2],
                strict=True,
            )
        ),
        **dict(zip(("dz", "dg"), ck.dropout_add_rms_norm_backward(dy, g, g_rstd, gamma, **dropped)[:2], strict=True)),
    }


@pytest.mark.parametrize("poor", POOR)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_few_wide_rows_have_the_bits_of_many(poor: str, p: float) -> None:
    x, dy, gamma, beta = inputs(poor)
    for gain, bias in ((gamma, beta), (gamma, None), (None, None)):
        many = bits({name: rows[:FEW] for name, rows in results(x, dy, gain, bias, p).items()})
        for n in THREADS:
            with exact_threads(n):
                assert bits(results(x[:FEW], dy[:FEW], gain, bias, p)) == many, n


@pytest.mark.parametrize("poor", ["ordinary", "huge", "tiny"])
def test_dgamma_and_dbeta_of_wide_rows_are_accurate(poor: str) -> None:
    x, dy, gamma, _ = (array[:FEW] if array.ndim == 2 else array for array in inputs(poor))
    _, mean, rstd = ck.layer_norm_forward(x, gamma)
    for found, exact in zip(
        ck.layer_norm_backward(dy, x, mean, rstd, gamma)[1:],
        oracle.layer_norm_backward(dy, x, *oracle.layer_norm_forward(x, gamma)[1:], gamma)[1:],
        strict=True,
    ):
        assert np.abs(found - exact).max() <= 2e-6 * np.abs(exact).max()
    _, rstd = ck.rms_norm_forward(x, gamma)
    found, exact = (
        ck.rms_norm_backward(dy, x, rstd, gamma)[1],
        oracle.rms_norm_backward(dy, x, oracle.rms_norm_forward(x, gamma)[1], gamma)[1],
    )
    assert np.abs(found - exact).max() <= 2e-6 * np.abs(exact).max()


def test_a_wide_row_normalised_in_place_has_the_same_bits() -> None:
    x, _, gamma, beta = inputs("ordinary")
    wanted = ck.layer_norm(x, gamma, beta)[:1]
    row = x[:1].copy()
    with exact_threads(2):
        assert ck.layer_norm(row, gamma, beta, out=row) is row
    assert row.tobytes() == wanted.tobytes()


def test_the_gradient_of_a_wide_row_in_place_has_the_same_bits() -> None:
    x, dy, gamma, _ = inputs("ordinary")
    _, mean, rstd = ck.layer_norm_forward(x[:1], gamma)
    dx = dy[:1].copy()
    wanted = ck.layer_norm_backward(dy[:1], x[:1], mean, rstd, gamma)[0]
    with exact_threads(2):
        assert ck.layer_norm_backward(dx, x[:1], mean, rstd, gamma, out=dx)[0] is dx
    assert dx.tobytes() == wanted.tobytes()
