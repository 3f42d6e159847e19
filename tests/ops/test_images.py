"""Transforms of images against NumPy, SciPy and colorsys, at their edges, and the values they refuse."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from support import Array, each_isa

from cregkit import functional, oracle

RNG = np.random.default_rng(3)


def images(*shape: int) -> Array:
    return RNG.uniform(0, 1, shape).astype(np.float32)


def whole(*values: Any) -> Array:
    return np.array(values, np.int64)


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("padding", [1, 2, 4])
def test_a_crop_is_a_window_of_numpys_pad(mode: str, padding: int) -> None:
    x = images(1, 3, 5, 6)
    numpys = {"zero": "constant", "reflect": "reflect"}[mode]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode=numpys)
    for top in range(-padding, padding + 1):
        for left in range(-padding, padding + 1):
            at = top + padding, left + padding
            wanted = padded[:, :, at[0] : at[0] + 5, at[1] : at[1] + 6]
            for _ in each_isa():
                y = functional.crop_images(x, whole((top, left)), (5, 6), mode=mode)
                assert np.array_equal(y, wanted)
                last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
                y = functional.crop_images(last, whole((top, left)), (5, 6), mode=mode, channel_axis=-1)
                assert np.array_equal(np.moveaxis(y, -1, 1), wanted)


def test_a_crop_far_outside_is_zero_or_reflected() -> None:
    x = images(1, 1, 3, 4)
    assert not functional.crop_images(x, whole((2**40, -(2**40))), 2).any()
    y = functional.crop_images(x, whole((-5, 11)), (2, 3), mode="reflect")
    assert np.array_equal(y[0, 0], x[0, 0][np.ix_([1, 0], [1, 0, 1])])


def test_flips_are_numpys(isa: str) -> None:
    for shape in ((4, 3, 6, 7), (4, 1, 40, 67), (4, 3, 1, 33)):
        x = images(*shape)
        y = functional.flip_images(x, whole(0, 1, 2, 3))
        wanted = [x[0], x[1, :, :, ::-1], x[2, :, ::-1], x[3, :, ::-1, ::-1]]
        assert all(np.array_equal(a, b) for a, b in zip(y, wanted, strict=True))
        functional.flip_images(y, whole(0, 1, 2, 3), out=y)
        assert np.array_equal(x, y)


@pytest.mark.parametrize("degrees", [-170.5, -90.0, -13.0, 1e-9, 30.0, 45.0, 90.0, 180.0, 270.0, 359.0, 765.0])
def test_rotation_is_scipys(degrees: float, isa: str) -> None:
    x = images(1, 2, 20, 31)
    y = functional.rotate_images(x, np.array([degrees]), 0.3)
    a = np.deg2rad(degrees)
    matrix = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    centre = np.array([9.5, 15.0])
    for image, got in zip(x[0], y[0], strict=True):
        wanted = ndimage.affine_transform(
            image.astype(np.float64), matrix, centre - matrix @ centre, order=1, mode="grid-constant", cval=0.3
        )
        np.testing.assert_allclose(got, wanted, rtol=0, atol=5e-7)


def test_quarter_turns_move_pixels(isa: str) -> None:
    x = images(4, 3, 8, 8)
    y = functional.rotate_images(x, np.array([0.0, 90.0, 180.0, -90.0]))
    for turns, (image, got) in enumerate(zip(x, y, strict=True)):
        assert np.array_equal(got, np.rot90(image, turns, axes=(1, 2)))


def test_cutout_and_cutmix_fill_the_boxes_within_the_image(isa: str) -> None:
    x, other = images(5, 3, 6, 7), images(5, 3, 6, 7)
    boxes = whole((1, 2, 4, 5), (-3, -3, 2, 2), (5, 6, 99, 99), (3, 3, 3, 9), (4, 4, 2, 2))
    cut, mixed = functional.cutout_images(x, boxes, 0.5), functional.cutmix_images(x, other, boxes)
    wanted, wanted_mixed = x.copy(), x.copy()
    for place in ((0, slice(1, 4), slice(2, 5)), (1, slice(0, 2), slice(0, 2)), (2, slice(5, 6), slice(6, 7))):
        i, rows, columns = place
        wanted[i, :, rows, columns] = 0.5
        wanted_mixed[i, :, rows, columns] = other[i, :, rows, columns]
    assert np.array_equal(cut, wanted)
    assert np.array_equal(mixed, wanted_mixed)


def test_hue_is_that_of_the_standard_library(isa: str) -> None:
    x = images(1, 3, 16, 16)
    x[0, :, 0] = [[0.0], [0.3], [1.0]]
    x[0, :, 1] = 0.4
    x[0, 1, 2] = x[0, 0, 2]
    for turn in (0.1, -0.25, 0.5, 0.999, 7.3):
        y = functional.jitter_images(x, np.array([[1, 1, 1, turn]], np.float32))
        for before, after in zip(x[0].reshape(3, -1).T, y[0].reshape(3, -1).T, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*before.tolist())
            np.testing.assert_allclose(after, colorsys.hsv_to_rgb((h + turn) % 1, s, v), rtol=0, atol=2e-6)


def test_each_colour_factor_follows_its_formula(isa: str) -> None:
    x = images(1, 3, 9, 11)
    gray = np.tensordot([0.299, 0.587, 0.114], x[0], axes=1)
    for factors, wanted in (
        ((1.7, 1, 1, 0), np.clip(1.7 * x[0], 0, 1)),
        ((0, 1, 1, 0), np.zeros_like(x[0])),
        ((1, 0, 1, 0), np.full_like(x[0], gray.mean())),
        ((1, 2.5, 1, 0), np.clip(2.5 * x[0] - 1.5 * gray.mean(), 0, 1)),
        ((1, 1, 0, 0), np.broadcast_to(gray, x[0].shape)),
        ((1, 1, 1.5, 0), np.clip(1.5 * x[0] - 0.5 * gray, 0, 1)),
        ((1, 1, 1, 3), x[0]),
    ):
        y = functional.jitter_images(x, np.array([factors], np.float32))
        np.testing.assert_allclose(y[0], wanted, rtol=0, atol=5e-7)


def test_identity_transforms_keep_every_bit(isa: str) -> None:
    bits = np.array([0x7FC12345, 0xFF800000, 0x80000000, 1, 0x40400000, 0x7F800001], np.uint32)
    x = np.tile(bits, 20).view(np.float32).reshape(2, 3, 4, 5)
    identity = np.tile(np.float32([1, 1, 1, 0]), (2, 1))
    boxes, zeros = np.zeros((2, 4), np.int64), np.zeros(2, np.int64)
    colours = np.where(np.abs(x) > 1, np.float32(0.5), x)  # NaN, -0 and a subnormal number stay
    assert functional.jitter_images(colours, identity).tobytes() == colours.tobytes()
    for y in (
        functional.flip_images(x, zeros),
        functional.rotate_images(x, np.zeros(2)),
        functional.cutout_images(x, boxes),
        functional.cutmix_images(x, images(2, 3, 4, 5), boxes),
        functional.crop_images(x, np.zeros((2, 2), np.int64), (4, 5)),
        functional.gaussian_noise(x, np.zeros(2, np.float32), zeros, seed=1),
    ):
        assert y.tobytes() == x.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_stay_in_their_image(bad: float) -> None:
    x = images(3, 3, 9, 10)
    spoilt = x.copy()
    spoilt[1, 2, 4, 5] = bad
    factors = np.tile(np.float32([1.2, 0.7, 1.3, 0.2]), (3, 1))
    found = set()
    for _ in each_isa():
        for op, arguments in (
            *([(functional.jitter_images, (factors,))] if np.isnan(bad) else []),  # infinity is refused
            (functional.rotate_images, (np.full(3, 17.0),)),
            (functional.mixup_images, (x, np.full(3, 0.5, np.float32))),
            (functional.gaussian_noise, (np.ones(3, np.float32), np.arange(3))),
        ):
            more: Any = {"seed": 1} if op is functional.gaussian_noise else {}
            clean, got = op(x, *arguments, **more), op(spoilt, *arguments, **more)  # type: ignore[operator]
            assert got[::2].tobytes() == clean[::2].tobytes()
            found.add((op.__name__, np.isnan(got).tobytes()))
    assert len({name for name, _ in found}) == len(found) == (4 if np.isnan(bad) else 3)


def test_saturation_and_hue_leave_a_gray_image_alone(isa: str) -> None:
    x = images(2, 1, 5, 6)
    factors = np.float32([[1.1, 0.8, 0.3, 0.4]] * 2)
    plain = np.float32([[1.1, 0.8, 1.0, 0.0]] * 2)
    assert np.array_equal(functional.jitter_images(x, factors), functional.jitter_images(x, plain))


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_brightness_and_contrast_take_any_number_of_channels(channels: int, isa: str) -> None:
    x = images(3, channels, 9, 17)
    factors = np.float32([[1.2, 0.7, 1, 0], [1, 1.6, 1, 2], [0.4, 1, 1, -1]])
    wanted = oracle.jitter_images(x, factors)
    np.testing.assert_allclose(functional.jitter_images(x, factors), wanted, rtol=0, atol=1e-6)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    y = functional.jitter_images(last, factors, channel_axis=-1)
    np.testing.assert_allclose(np.moveaxis(y, -1, 1), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_saturation_and_hue_refuse_other_numbers_of_channels_than_1_and_3(channels: int, isa: str) -> None:
    x = images(3, channels, 9, 17)
    for column, value in ((2, 0.9), (3, 0.5)):
        bad = np.float32([[1.2, 0.7, 1, 0], [1, 1.6, 1, 2], [0.4, 1, 1, -1]])
        bad[1, column] = value
        with pytest.raises(ValueError, match=f"3 channels .* or 1 for saturation and hue, got {channels} in shape"):
            functional.jitter_images(x, bad)


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 3, 3, 7), (2, 3, 5, 29), (3, 1, 3, 23), (2, 4, 3, 11)])
def test_jitter_refuses_a_value_outside_0_to_1_at_any_position(shape: tuple[int, ...], isa: str) -> None:
    x = images(*shape)
    some = [(1, 1, 1, 0), (1.2, 1, 1, 0), (0.8, 1.3, 1, 0), (1, 1, 1.4, 0), (1.1, 0.7, 1.3, 0.2)]
    rows = [np.tile(np.float32(row), (shape[0], 1)) for row in (some if shape[1] in (1, 3) else some[:3])]
    for at in range(x.size):
        bad = x.copy()
        bad.ravel()[at] = (1.002, -0.002, np.inf, -np.inf)[at % 4]
        factors, axis = rows[at % len(rows)], 1 if at % 2 or shape[1] == 4 else -1
        if axis == -1:
            bad = bad.reshape(shape[0], *shape[2:], shape[1])
        out, before = np.full_like(bad, 7), bad.tobytes()
        for target in (None, out, bad):
            with pytest.raises(ValueError, match=r"x must hold values from 0 to 1, got .* to .*: divide 8-bit"):
                functional.jitter_images(bad, factors, channel_axis=axis, out=target)
        assert (out == 7).all()
        assert bad.tobytes() == before


def test_uint8_images_are_refused_with_the_conversion_to_write() -> None:
    x = np.zeros((2, 3, 4, 4), np.uint8)
    with pytest.raises(TypeError, match=r"x must be float32, got uint8: convert it with .* / 255"):
        functional.flip_images(x, whole(0, 1))


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("flip_images", (whole(0, 4),), r"flips must hold whole numbers from 0 to 3, got 4"),
        (
            "crop_images",
            (whole((0, 0), (0, 2**41)), 3),
            r"corners must hold whole numbers from -2\*\*40 to 2\*\*40, got 2\d+",
        ),
        ("crop_images", (whole((0, 0), (0, 0)), 0), r"size must be of whole numbers from 1 up"),
        ("crop_images", (whole((0, 0), (0, 0)), (3, 3, 3)), r"size must be a whole number or a pair"),
        ("rotate_images", (np.array([0.0, np.nan]),), r"degrees must hold angles from -1e9 to 1e9, got nan"),
        (
            "jitter_images",
            (np.float32([[1, 1, -1, 0]] * 2),),
            r"factors\[:, 2\] must hold finite numbers of at least 0, got -1",
        ),
        ("jitter_images", (np.float32([[1, 1, 1, np.inf]] * 2),), r"factors\[:, 3\] must hold finite numbers, got inf"),
        (
            "mixup_images",
            (images(2, 3, 4, 4), np.float32([0.5, 1.5])),
            r"weight must hold numbers from 0 to 1, got 1\.5",
        ),
        ("cutout_images", (np.zeros((2, 4), np.int64), np.nan), r"fill must be"),
        ("gaussian_noise", (np.float32([1, np.nan]), whole(0, 1)), r"sigma must hold finite numbers .*, got nan"),
        ("gaussian_noise", (np.float32([1, 1]), whole(0, -1)), r"index must hold numbers .* from 0 to 2\*\*32 - 1"),
    ],
)
def test_arguments_out_of_range_are_refused(op: str, arguments: tuple[Any, ...], message: str) -> None:
    x = images(2, 3, 4, 4)
    before = x.tobytes()
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(functional, op)(x, *arguments, **({"seed": 1} if op == "gaussian_noise" else {}))
    assert x.tobytes() == before


def test_an_unknown_crop_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be 'zero' or 'reflect', got 'wrap'"):
        functional.crop_images(images(1, 1, 2, 2), whole((0, 0)), 2, mode="wrap")


def test_the_oracle_gives_the_same_images_in_both_layouts() -> None:
    x = images(3, 3, 6, 5)
    last = np.moveaxis(x, 1, -1)
    for op, arguments in (
        (oracle.flip_images, (whole(1, 2, 3),)),
        (oracle.rotate_images, (np.array([3.0, 100.0, 0.0]),)),
        (oracle.jitter_images, (np.float32([[1.2, 0.7, 1.3, 0.2]] * 3),)),
    ):
        wanted = op(x, *arguments)  # type: ignore[operator]
        assert np.array_equal(np.moveaxis(op(last, *arguments, channel_axis=-1), -1, 1), wanted)  # type: ignore[operator]
