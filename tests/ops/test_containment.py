"""A NaN or Inf touches its own row (channel) alone; a dropped one becomes 0."""

from __future__ import annotations

import numpy as np
import pytest
from support import ROW_NORMS, Array, along, arguments_of, each_isa

from cregkit import functional, oracle
from cregkit.verify import cases
from cregkit.verify.shapes import CHANNELS_LAST, COLUMNS, GROUPS, GROUPS_LAST, PLANES, Shape

BAD = (np.nan, np.inf, -np.inf)
bad_value = pytest.mark.parametrize("bad", BAD)


def same(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()


ROW_SHAPES = ((70, 5), (70, 65), (3, 4099))


@bad_value
@pytest.mark.parametrize("op", ROW_NORMS)
@pytest.mark.parametrize("axis", [-1, 0])
def test_a_bad_value_in_x_stays_in_its_row(axis: int, op: str, bad: float) -> None:
    rng = np.random.default_rng(0)
    forward, backward = (along(axis, getattr(functional, f"{op}_{way}")) for way in ("forward", "backward"))
    for shape in ROW_SHAPES:
        x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
        gamma = rng.uniform(0.5, 1.5, shape[1]).astype(np.float32)
        row, others = 1, np.arange(shape[0]) != 1
        for column in (0, shape[1] // 2, shape[1] - 1):
            spoilt = x.copy()
            spoilt[row, column] = bad
            wanted = getattr(oracle, f"{op}_forward")(spoilt, gamma)
            for _ in each_isa():
                clean, got = forward(x, gamma), forward(spoilt, gamma)
                for before, after, other in zip(clean, got, wanted, strict=True):
                    assert same(before[others], after[others])
                    finite = np.isfinite(other)
                    assert np.array_equal(np.isfinite(after), finite)
                    assert np.array_equal(after[~finite], other[~finite], equal_nan=True)  # Inf or NaN as in the oracle
                assert not np.isfinite(got[0][row, column])
                assert same(
                    backward(dy, x, *clean[1:], gamma)[0][others], backward(dy, spoilt, *got[1:], gamma)[0][others]
                )
                assert not np.isfinite(backward(dy, spoilt, *got[1:], gamma)[0][row]).all()


@bad_value
@pytest.mark.parametrize("op", ROW_NORMS)
@pytest.mark.parametrize("axis", [-1, 0])
def test_a_bad_value_in_dy_stays_in_its_row_and_column(axis: int, op: str, bad: float) -> None:
    rng = np.random.default_rng(0)
    backward = along(axis, getattr(functional, f"{op}_backward"))
    for shape in ROW_SHAPES:
        x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
        gamma = rng.uniform(0.5, 1.5, shape[1]).astype(np.float32)
        saved = getattr(oracle, f"{op}_forward")(x)[1:]
        others, columns = np.arange(shape[0]) != 1, np.arange(shape[1]) != shape[1] - 1
        spoilt = dy.copy()
        spoilt[1, -1] = bad
        for _ in each_isa():
            clean, got = (backward(a, x, *saved, gamma) for a in (dy, spoilt))
            assert same(clean[0][others], got[0][others])
            assert not np.isfinite(got[0][1]).any()
            for before, after in zip(clean[1:], got[1:], strict=True):
                np.testing.assert_allclose(after[columns], before[columns], rtol=0, atol=2e-6 * np.abs(before).max())
                assert not np.isfinite(after[-1])


CHANNEL_CASES = [
    pytest.param(case, shape, array, id=f"{case.name}-{'x'.join(map(str, shape))}-{array}")
    for case in cases.CASES
    if case.op.startswith("batch_norm")
    for array in (("dy", "x") if case.op.endswith("backward") else ("x",))
    for shape in {
        COLUMNS: ((5, 19), (200, 37)),
        PLANES: ((3, 5, 7), (2, 3, 65, 65)),
        CHANNELS_LAST: ((4, 7, 37),),
    }[case.shapes]
]


@bad_value
@pytest.mark.parametrize(("case", "shape", "array"), CHANNEL_CASES)
def test_a_bad_value_stays_in_its_channel(case: cases.Case, shape: Shape, array: str, bad: float) -> None:
    arguments = arguments_of(case, shape)
    axis = arguments["channel_axis"]
    bad_channel = 2
    spoilt = arguments[array].copy()
    np.moveaxis(spoilt, axis, 0)[bad_channel].flat[3] = bad  # flat writes through the view's own order
    for _ in each_isa():
        clean = cases.run(case, functional, arguments)
        got = cases.run(case, functional, arguments | {array: spoilt})
        assert any(not np.isfinite(value).all() for value in got.values())
        for name, value in got.items():
            before, after = (np.moveaxis(a, axis, 0) if a.ndim > 1 else a for a in (clean[name], value))
            others = np.arange(len(after)) != bad_channel
            assert same(before[others], after[others]), name


@bad_value
@pytest.mark.parametrize("array", ["x", "dy"])
@pytest.mark.parametrize(("shape", "channel_axis"), [((7, 19), 1), ((7, 5, 7), 1), ((7, 5, 65), 1), ((7, 3, 37), -1)])
def test_a_bad_value_stays_in_its_channel_of_its_virtual_batch(
    shape: tuple[int, ...], channel_axis: int, array: str, bad: float
) -> None:
    """And in the sums of its channel over the batch."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    gamma = rng.uniform(0.5, 1.5, shape[channel_axis]).astype(np.float32)
    spoilt = {"x": x.copy(), "dy": dy.copy()}
    np.moveaxis(spoilt[array], channel_axis, 1)[4, 2, ...] = bad  # the second of the virtual batches 0-2, 3-5 and 6
    size, layout = (3 if len(shape) > 2 else 4), {"channel_axis": channel_axis}
    batch = slice(size, 2 * size)
    others = np.arange(len(gamma)) != 2
    for _ in each_isa():
        found = []
        for given in ({"x": x, "dy": dy}, spoilt):
            running = np.zeros_like(gamma), np.ones_like(gamma)
            y, mean, rstd = functional.ghost_batch_norm_forward(given["x"], size, gamma, None, *running, **layout)
            dx, *sums = functional.ghost_batch_norm_backward(given["dy"], given["x"], size, mean, rstd, gamma, **layout)
            found.append(([y, dx], [mean, rstd], [*running, *sums]))
        (clean, clean_statistics, clean_sums), (got, statistics, got_sums) = found
        for before, after in zip(clean, got, strict=True):
            before, after = (np.moveaxis(a, channel_axis, 1) for a in (before, after))
            outside = np.ones(before.shape, bool)
            outside[batch, 2] = False
            assert same(before[outside], after[outside])
        assert not np.isfinite(np.moveaxis(got[1], channel_axis, 1)[batch, 2]).any()
        for before, after in zip(clean_statistics, statistics, strict=True):
            assert same(before[:, others], after[:, others])
            assert same(before[[0, *range(2, len(before))]], after[[0, *range(2, len(after))]])
        for before, after in zip(clean_sums, got_sums, strict=True):
            assert same(before[others], after[others])


GROUP_CASES = [
    pytest.param(case, shape, array, id=f"{case.name}-{'x'.join(map(str, shape))}-{array}")
    for case in cases.CASES
    if case.op.startswith(("group_norm", "instance_norm"))
    for array in (("dy", "x") if case.op.endswith("backward") else ("x",))
    for shape in {
        GROUPS: ((3, 6), (3, 6, 5), (2, 12, 65), (2, 6, 4099)),
        GROUPS_LAST: ((3, 5, 6), (2, 65, 12), (2, 37, 320)),
        PLANES: ((3, 6, 5), (2, 3, 65, 65)),
        CHANNELS_LAST: ((4, 7, 37),),
    }[case.shapes]
]


@bad_value
@pytest.mark.parametrize(("case", "shape", "array"), GROUP_CASES)
def test_a_bad_value_stays_in_its_group(case: cases.Case, shape: Shape, array: str, bad: float) -> None:
    """A group of one sample; and the sums over the batch of its channels."""
    arguments = arguments_of(case, shape)
    axis = arguments["channel_axis"]
    groups = arguments["mean"].shape[1] if "mean" in arguments else arguments.get("num_groups", shape[axis])
    per_group = shape[axis] // groups
    sample, group, channel = 1, groups - 1, shape[axis] - per_group  # its first channel
    spoilt = arguments[array].copy()
    np.moveaxis(spoilt, axis, 1)[sample, channel, ...].flat[-1] = bad
    for _ in each_isa():
        clean = cases.run(case, functional, arguments)
        got = cases.run(case, functional, arguments | {array: spoilt})
        assert any(not np.isfinite(value).all() for value in got.values())
        for name, after in got.items():
            before = clean[name]
            if after.ndim == 1:  # sums over the batch
                others = np.arange(len(after)) < channel
                np.testing.assert_allclose(after[others], before[others], rtol=2e-6, atol=2e-6 * np.abs(before).max())
                continue
            before, after = (a if a.shape[1:] == (groups,) else np.moveaxis(a, axis, 1) for a in (before, after))
            spoilt_from = channel if after.shape[1] == shape[axis] else group
            others = np.arange(len(after)) != sample
            assert same(before[others], after[others]), name
            assert same(before[sample, :spoilt_from], after[sample, :spoilt_from]), name
            if name in ("y", "dx"):
                assert not np.isfinite(after[sample, spoilt_from:]).any(), name


# The dropouts, and how many axes of an array have decisions.
DROPOUTS = [("dropout", 3), ("spatial_dropout", 2), ("drop_path", 1)]


def keep_of(shape: Shape, axes: int) -> Array:
    keep = functional.dropout_keep(shape[:axes], 0.4, seed=9)
    return np.broadcast_to(keep.reshape(keep.shape + (1,) * (len(shape) - axes)), shape)


@bad_value
@pytest.mark.parametrize(("op", "axes"), [("alpha_dropout", 3), ("feature_alpha_dropout", 2)])
def test_dropped_bad_values_become_the_constant_of_alpha_dropout(op: str, axes: int, bad: float) -> None:
    x = np.full((3, 50, 7), bad, np.float32)
    keep = keep_of(x.shape, axes)
    forward, backward = getattr(functional, op), getattr(functional, f"{op}_backward")
    for _ in each_isa():
        y, dx = forward(x, 0.4, seed=9), backward(x, 0.4, seed=9)
        assert y[~keep].tobytes() == forward(np.zeros_like(x), 0.4, seed=9)[~keep].tobytes()
        assert not dx[~keep].view(np.uint32).any()
        assert all(np.array_equal(a[keep], x[keep], equal_nan=True) for a in (y, dx))


@bad_value
@pytest.mark.parametrize(("op", "axes"), DROPOUTS)
def test_dropped_bad_values_become_positive_zero(op: str, axes: int, bad: float) -> None:
    x = np.full((3, 50, 7), bad, np.float32)
    keep = keep_of(x.shape, axes)
    for _ in each_isa():
        for function in (getattr(functional, op), getattr(functional, f"{op}_backward")):
            y = function(x, 0.4, seed=9)
            assert not y[~keep].view(np.uint32).any()  # +0
            assert np.array_equal(y[keep], x[keep], equal_nan=True)


@bad_value
@pytest.mark.parametrize(("op", "axes"), DROPOUTS)
@pytest.mark.parametrize("size", [7, 1000, 6 * 2**20])  # the last one uses streaming stores
def test_dropped_bad_values_become_positive_zero_in_place(op: str, axes: int, size: int, bad: float) -> None:
    whole = np.empty(3 * 4 * size + 1, np.float32)
    keep = keep_of((3, 4, size), axes)
    for start in (0, 1):
        x = whole[start : start + 12 * size].reshape(3, 4, size)
        for way in ("", "_backward"):
            x[...] = bad
            getattr(functional, f"{op}{way}")(x, 0.4, seed=9, out=x)
            assert not x[~keep].view(np.uint32).any()  # +0
            assert np.array_equal(x[keep], np.full(keep.sum(), bad, np.float32), equal_nan=True)


@bad_value
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_dropped_bad_values_do_not_reach_the_residual(norm: str, bad: float) -> None:
    """Into new memory, and into either input."""
    rng = np.random.default_rng(0)
    keep = functional.dropout_keep((9, 70), 0.4, seed=9)
    residual = rng.standard_normal((9, 70)).astype(np.float32)
    x = np.where(keep, residual, np.float32(bad))
    op = getattr(functional, f"dropout_add_{norm}_forward")
    y, h, *_ = op(np.where(keep, residual, np.float32(0.0)), residual, p=0.4, seed=9)
    for _ in each_isa():
        for target in ("fresh", "x", "residual"):
            arrays = {"x": x.copy(), "residual": residual.copy()}
            got = op(**arrays, p=0.4, seed=9, out=arrays.get(target))
            assert same(got[0], y), target
            assert same(got[1], h), target


@bad_value
def test_a_bad_gradient_stays_in_its_weight(bad: float) -> None:
    w, dw, m = np.random.default_rng(1).standard_normal((3, 131)).astype(np.float32)
    v, others = np.abs(m), np.arange(131) != 67
    spoilt = dw.copy()
    spoilt[67] = bad
    for _ in each_isa():
        for changes in ("sgd", "adamw"):
            results = []
            for gradient in (dw, spoilt):
                state = [a.copy() for a in (w, m, v)]
                if changes == "sgd":
                    functional.sgd_step(state[0], gradient, 0.1, momentum=0.9, velocity=state[1])
                else:
                    functional.adamw_step(state[0], gradient, state[1], state[2], 1, 0.1)
                results.append(state)
            assert all(same(a[others], b[others]) for a, b in zip(*results, strict=True))
            assert not np.isfinite(results[1][0][67])
