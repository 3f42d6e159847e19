"""Augmentation of images and data sets: one stream for any batch, order and worker; wrong settings are refused."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Array

from cregkit import augment as aug
from cregkit import functional
from cregkit.layers import Linear, Sequential
from cregkit.train import SGD, fit, softmax_cross_entropy
from cregkit.verify import cases

X = np.random.default_rng(0).uniform(0, 1, (40, 3, 12, 10)).astype(np.float32)
LABELS = np.arange(40) % 7
PIPELINE = aug.Compose(
    aug.RandomCrop((12, 10), padding=2, padding_mode="reflect"),
    aug.HorizontalFlip(),
    aug.RandomApply(aug.Rotation(20), 0.5),
    aug.OneOf(aug.ColorJitter(0.4, 0.4, 0.4, 0.1), aug.Cutout(5), aug.VerticalFlip(1.0)),
    aug.GaussianNoise((0.0, 0.1)),
)
EACH = {
    "crop": aug.RandomCrop(8),
    "flip": aug.HorizontalFlip(),
    "upside down": aug.VerticalFlip(),
    "rotation": aug.Rotation(30),
    "jitter": aug.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "cutout": aug.Cutout((3, 4), fill=0.5),
    "noise": aug.GaussianNoise((0.1, 0.2)),
    "compose": PIPELINE,
    "nothing": aug.Compose(),
}


@pytest.mark.parametrize("name", EACH)
def test_a_sample_is_the_same_in_any_batch_and_order(name: str) -> None:
    transform, index = EACH[name], np.arange(100, 140)
    before = X.tobytes()
    whole = transform(X, index=index, seed=9, epoch=3)
    assert X.tobytes() == before
    order = np.random.default_rng(1).permutation(40)
    assert transform(X[order], index=index[order], seed=9, epoch=3).tobytes() == whole[order].tobytes()
    for i in (0, 17, 39):
        assert transform(X[i : i + 1], index=index[i : i + 1], seed=9, epoch=3)[0].tobytes() == whole[i].tobytes()
    if name != "nothing":
        assert not np.array_equal(transform(X, index=index, seed=9, epoch=4), whole)
        assert not np.array_equal(transform(X, index=index, seed=8, epoch=3), whole)


def test_both_layouts_give_the_same_images() -> None:
    last = np.ascontiguousarray(np.moveaxis(X, 1, -1))
    for first, other in (
        (aug.RandomCrop(8, 2), aug.RandomCrop(8, 2, channel_axis=-1)),
        (aug.HorizontalFlip(), aug.HorizontalFlip(channel_axis=-1)),
        (aug.Rotation(30), aug.Rotation(30, channel_axis=-1)),
        (aug.Cutout(4), aug.Cutout(4, channel_axis=-1)),
    ):
        a = first(X, index=range(40), seed=1)
        assert np.array_equal(np.moveaxis(other(last, index=range(40), seed=1), -1, 1), a)


def share(changed: Any, p: float) -> None:
    assert abs(np.mean(changed) - p) < 5 * np.sqrt(p * (1 - p) / len(changed))


N = 20_000
RAMPS = np.tile(np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4), (N, 1, 1, 1))


def first_pixels(transform: aug.Transform) -> Array:
    """The first pixel of each augmented ramp: 3 where it was flipped."""
    y: Array = transform(RAMPS, index=np.arange(N), seed=2)
    return y[:, 0, 0, 0]


def test_a_flip_has_its_probability() -> None:
    share(first_pixels(aug.HorizontalFlip(0.3)) == 3, 0.3)


def test_random_apply_has_its_probability() -> None:
    share(first_pixels(aug.RandomApply(aug.HorizontalFlip(1.0), 0.7)) == 3, 0.7)


def test_crops_are_uniform() -> None:
    windows = first_pixels(aug.RandomCrop((1, 2)))
    for first in range(3):
        share(windows == first, 1 / 3)


def test_one_of_chooses_by_its_weights() -> None:
    y = first_pixels(aug.OneOf(aug.HorizontalFlip(1.0), aug.Cutout((9, 99), fill=7), aug.Compose(), weights=(1, 2, 1)))
    share(y == 3, 0.25)
    share(y == 7, 0.5)


def test_brightness_covers_its_range() -> None:
    ones = np.ones((N, 1, 1, 1), np.float32)
    bright = aug.ColorJitter(brightness=(0.5, 0.75))(ones, index=np.arange(N), seed=3).ravel()
    assert 0.5 <= bright.min() < 0.51 < 0.74 < bright.max() <= 0.75


def test_transforms_in_a_composition_are_independent() -> None:
    x = np.arange(20_000, dtype=np.float32)[:, None, None, None] + np.zeros((1, 1, 1, 2), np.float32)
    x[..., 1] = -1
    one = aug.HorizontalFlip()(x, index=range(20_000), seed=4)[:, 0, 0, 0] < 0
    twice = aug.Compose(aug.HorizontalFlip(), aug.HorizontalFlip())(x, index=range(20_000), seed=4)[:, 0, 0, 0] < 0
    share(one, 0.5)
    share(twice, 0.5)


@pytest.mark.parametrize("mix", [aug.Mixup(0.4), aug.Mixup(1.0), aug.CutMix()], ids=repr)
def test_a_mixture_is_the_same_in_any_batch(mix: Any) -> None:
    augmentation = aug.Augmentation(PIPELINE, mix=mix, classes=7, seed=5)
    x, soft = augmentation((X, LABELS), np.arange(40), epoch=2)
    rows = [31, 4, 18]
    part, part_soft = augmentation((X, LABELS), rows, epoch=2)
    assert part.tobytes() == x[rows].tobytes()
    assert part_soft.tobytes() == soft[rows].tobytes()
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=0, atol=1e-6)
    assert (soft.max(axis=1) < 0.999).mean() > 0.3
    pairs = list(zip(X, LABELS, strict=True))
    assert augmentation(pairs, rows, epoch=2)[0].tobytes() == part.tobytes()


def test_soft_labels_are_the_shares_of_the_mixed_images() -> None:
    x = np.arange(40, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 20, 20), np.float32)
    for mix in (aug.Mixup(1.0), aug.CutMix()):
        mixed, soft = aug.Augmentation(mix=mix, classes=40, seed=6)((x, np.arange(40)), np.arange(40), epoch=0)
        np.testing.assert_allclose(
            soft @ np.arange(40, dtype=np.float32), mixed.mean(axis=(1, 2, 3)), rtol=1e-4, atol=1e-4
        )
        assert soft[np.arange(40), np.arange(40)].std() > 0.1


def test_mixup_weights_have_the_beta_distribution() -> None:
    from scipy import stats

    weights = aug.Mixup(0.4)._weights(np.arange(20_000), 3)
    assert stats.kstest(weights, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


def network() -> Sequential:
    return Sequential(Linear(360, 7, seed=1))


def run_fit(batch_size: int, epochs: int = 3, **options: Any) -> tuple[list[Array], Sequential]:
    seen: list[Array] = []

    class Watch(aug.AugmentBatches):
        def on_batch_begin(self, state: Any, rows: Any, x: Array, targets: Array) -> Any:
            x, targets = super().on_batch_begin(state, rows, x, targets)
            seen.extend(x[np.argsort(rows)])
            return x, targets

    net = network()
    hook = Watch(aug.Augmentation(PIPELINE, mix=aug.CutMix(), classes=7, seed=11), shape=(3, 12, 10))
    fit(net, softmax_cross_entropy, SGD(net, 0.1), (X.reshape(40, -1), LABELS), None, epochs, batch_size=batch_size,
        seed=2, callbacks=[hook], **options)  # fmt: skip
    return seen, net


def test_a_fit_trains_on_the_same_samples_for_any_batch_size() -> None:
    for_all, net = run_fit(40)
    wanted, _ = aug.Augmentation(PIPELINE, mix=aug.CutMix(), classes=7, seed=11)((X, LABELS), np.arange(40), epoch=1)
    assert np.array_equal(np.stack(for_all[40:80]), wanted.reshape(40, -1))
    in_pieces, _ = run_fit(7)
    for epoch in range(3):
        of_epoch = slice(40 * epoch, 40 * epoch + 40)
        assert Counter(map(bytes, for_all[of_epoch])) == Counter(map(bytes, in_pieces[of_epoch]))
    assert all(np.isfinite(p.value).all() for p in net.parameters())


def test_a_resumed_fit_continues_with_the_same_samples(tmp_path: Path) -> None:
    file = tmp_path / "run.npz"
    run_fit(16, 1, checkpoint=file)
    _, resumed = run_fit(16, 3, checkpoint=file, resume=True)
    _, straight = run_fit(16, 3)
    for a, b in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert a.value.tobytes() == b.value.tobytes()


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_a_data_loader_give_the_same_samples(persistent: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS))

    def samples(workers: int, batch_size: int) -> list[bytes]:
        dataset = aug.AugmentedDataset(data, aug.Augmentation(PIPELINE, mix=aug.Mixup(1.0), classes=7, seed=1))
        loader = torch.utils.data.DataLoader(
            dataset, batch_size, num_workers=workers, persistent_workers=persistent and workers > 0
        )
        found = []
        for epoch in (4, 5):
            dataset.set_epoch(epoch)
            for x, soft in loader:
                found += [a.numpy().tobytes() + b.numpy().tobytes() for a, b in zip(x, soft, strict=True)]
        return found

    alone = samples(0, 40)
    assert len(set(alone)) == 80
    assert samples(2, 7) == alone


def test_an_augmented_data_set_is_a_sequence() -> None:
    dataset = aug.AugmentedDataset((X, LABELS), aug.Augmentation(aug.HorizontalFlip(), seed=3))
    x, label = dataset[-1]
    assert (len(dataset), x.shape, label) == (40, (3, 12, 10), LABELS[39])
    assert x.tobytes() == dataset[39][0].tobytes()


@pytest.mark.parametrize("i", [40, -41])
def test_an_index_beyond_the_data_set_is_refused(i: int) -> None:
    dataset = aug.AugmentedDataset((X, LABELS), aug.Augmentation(aug.HorizontalFlip(), seed=3))
    with pytest.raises(IndexError, match=rf"index must be in \[-40, 40\), .* got {i}"):
        dataset[i]


@given(st.data())
def test_any_composition_gives_the_same_samples_in_any_batch(data: st.DataObject) -> None:
    simple = [aug.HorizontalFlip(0.4), aug.Rotation(45), aug.Cutout(4), aug.ColorJitter(0.5), aug.VerticalFlip(0.6)]
    some = st.lists(st.sampled_from(simple), min_size=1, max_size=3)
    trees = st.recursive(
        st.sampled_from(simple),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda t: aug.Compose(*t)),
            st.tuples(inner, st.floats(0, 1)).map(lambda t: aug.RandomApply(*t)),
            st.lists(inner, min_size=1, max_size=3).map(lambda t: aug.OneOf(*t)),
        ),
        max_leaves=5,
    )
    transform = data.draw(st.one_of(trees, some.map(lambda t: aug.OneOf(*t))))
    seed, cut = data.draw(st.integers(0, 2**64 - 1)), data.draw(st.integers(0, 9))
    x, index, before = X[:9], np.arange(9), X[:9].tobytes()
    whole = transform(x, index=index, seed=seed)
    parts = [transform(x[rows], index=index[rows], seed=seed) for rows in (slice(cut), slice(cut, None))]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert x.tobytes() == before


class Halved(aug.Transform):
    def apply(self, x: Array, index: Any, seed: int, *, overwrite: bool) -> Array:
        return np.stack([sample[..., ::2] for sample in x])


class Widened(aug.Transform):
    def apply(self, x: Array, index: Any, seed: int, *, overwrite: bool) -> Any:
        return x.astype(np.float64)


class Listed(aug.Transform):
    def apply(self, x: Array, index: Any, seed: int, *, overwrite: bool) -> Any:
        return list(x)


CLIPS = np.random.default_rng(2).standard_normal((40, 30)).astype(np.float32)
CHANGING: list[tuple[aug.Transform, Array, type[Exception], str]] = [
    (aug.RandomCrop(5), X, ValueError, r"RandomCrop.* changes the shape of samples from \(3, 12, 10\) to \(3, 5, 5\)"),
    (aug.Compose(aug.HorizontalFlip(), aug.RandomCrop((12, 9))), X, ValueError, r"to \(3, 12, 9\)"),
    (aug.Compose(aug.OneOf(aug.Compose(), aug.RandomCrop(5))), X, ValueError, r"to \(3, 5, 5\)"),
    (aug.TimeStretch(1.0, length=20), CLIPS, ValueError, r"changes the shape of samples from \(30,\) to \(20,\)"),
    (Halved(), X, ValueError, r"changes the shape of samples from \(3, 12, 10\) to \(3, 12, 5\)"),
    (Widened(), X, TypeError, "changes the dtype of samples from float32 to float64"),
    (Listed(), X, TypeError, "changes the type of a batch from ndarray to list"),
    (aug.RandomCrop(99), X, ValueError, "size 99 is larger than the image"),
    (aug.ColorJitter(hue=0.1), np.concatenate([X, X[:, :1]], axis=1), ValueError, "saturation and hue, got 4"),
    (aug.HorizontalFlip(), X.astype(np.float64), TypeError, "x must be float32, got float64"),
    (aug.HorizontalFlip(), X[0], ValueError, "x must have shape"),
]


@pytest.mark.parametrize("n", [0, 1, 2, 40])
@pytest.mark.parametrize(
    "composed",
    [
        lambda t: aug.RandomApply(t),
        lambda t: aug.RandomApply(t, 0),
        lambda t: aug.RandomApply(t, 1),
        lambda t: aug.OneOf(t),
        lambda t: aug.OneOf(t, t),
        lambda t: aug.OneOf(aug.Compose(), t, weights=(1, 0)),
        lambda t: aug.RandomApply(aug.RandomApply(aug.Compose(aug.Compose(), t), 0), 0.5),
    ],
    ids=["half", "never", "always", "one", "two", "no weight", "nested"],
)
@pytest.mark.parametrize(("transform", "x", "error", "message"), CHANGING, ids=[repr(row[0])[:30] for row in CHANGING])
def test_a_transform_that_changes_shape_or_dtype_is_refused_in_any_batch(
    transform: aug.Transform, x: Array, error: type[Exception], message: str, composed: Any, n: int
) -> None:
    before, some = x.tobytes(), x[:n]
    with pytest.raises(error, match=message):
        composed(transform)(some, index=range(len(some)), seed=1)
    assert x.tobytes() == before


def test_samples_of_a_list_may_change_their_type() -> None:
    class Split(aug.Transform):
        def apply(self, x: Any, index: Any, seed: int, *, overwrite: bool) -> Any:
            return tuple(sentence.split() for sentence in x)

    sentences = ["one two", "three four"] * 5
    for p in (0, 0.5, 1):
        found = aug.RandomApply(Split(), p)(sentences, index=range(10), seed=1)
        assert type(found) is list
        assert all(a in (b, b.split()) for a, b in zip(found, sentences, strict=True))


def test_a_transform_must_keep_the_number_of_samples() -> None:
    class First(aug.Transform):
        def apply(self, x: Any, index: Any, seed: int, *, overwrite: bool) -> Any:
            return x[:1]

    for x in (X, ["a"] * 40):
        with pytest.raises(ValueError, match="as many samples as it is given, 40, got 1"):
            aug.RandomApply(First(), 1)(x, index=range(40), seed=1)


@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_the_result_never_shares_memory_with_the_input(p: float) -> None:
    view = np.moveaxis(np.ascontiguousarray(np.moveaxis(X, 1, -1)), -1, 1)
    for transform in (aug.RandomApply(aug.HorizontalFlip(), p), aug.OneOf(aug.Compose(), aug.Cutout(3))):
        y = transform(X, index=range(40), seed=1)
        assert not np.may_share_memory(X, y)
        assert np.array_equal(transform(view, index=range(40), seed=1), y)


def test_a_view_of_the_input_is_not_written() -> None:
    class Flat(aug.Transform):
        def apply(self, x: Array, index: Any, seed: int, *, overwrite: bool) -> Array:
            return x.reshape(len(x), -1)

    before = X.tobytes()
    for then in (aug.GaussianNoise(0.1), aug.RandomApply(aug.GaussianNoise(0.1)), aug.OneOf(aug.GaussianNoise(0.1))):
        assert aug.Compose(Flat(), then)(X, index=range(40), seed=1).shape == (40, 360)
        assert X.tobytes() == before


def test_tensors_are_read_as_arrays() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for transform in (*EACH.values(), aug.RandomApply(aug.HorizontalFlip(), 0)):
        y = transform(torch.from_numpy(X), index=range(40), seed=1)
        assert type(y) is np.ndarray
        assert np.array_equal(y, transform(X, index=range(40), seed=1))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (255 * X, r"x must hold values from 0 to 1, got 0\.\d+ to 254\.\d+: divide 8-bit images by 255"),
        ((X - 0.5) / 0.3, r"got -1\.6\d* to 1\.6\d*: .* standardise images and add noise after the jitter"),
        (np.where(X[7].max() == X, np.float32(1.5), X), r"got 0\.\d+ to 1\.5"),
        (np.where(X[7].max() == X, -np.inf, X).astype(np.float32), r"got -inf to"),
        (np.where(X[7].max() == X, np.inf, np.where(X < 0.1, np.nan, X)).astype(np.float32), r"got 0\.\d+ to inf"),
        (X + np.float32(0.01), r"got 0\.01\d* to 1\.009\d*"),
    ],
    ids=["8 bits", "standardised", "one value", "-inf", "inf and NaN", "a little too bright"],
)
def test_colours_outside_0_to_1_are_refused(x: Array, message: str) -> None:
    before = x.tobytes()
    for jitter in (aug.ColorJitter(0.001), aug.ColorJitter(), aug.ColorJitter(hue=0.1, saturation=0.2)):
        with pytest.raises(ValueError, match=message):
            jitter(x, index=range(40), seed=1)
    with pytest.raises(ValueError, match=message):
        functional.jitter_images(x, np.tile(np.float32([1.1, 1, 1, 0]), (40, 1)), out=x)
    assert x.tobytes() == before


def test_colours_outside_0_to_1_by_rounding_are_accepted() -> None:
    x = X.copy()
    x[0, 0, 0, :3] = 1.0000001, -1e-7, 1.0009
    y = aug.ColorJitter(0.2, 0.2, 0.2)(x, index=range(40), seed=1)
    near = aug.ColorJitter(0.2, 0.2, 0.2)(np.clip(x, 0, 1), index=range(40), seed=1)
    np.testing.assert_allclose(y, near, rtol=0, atol=2e-3)


def test_a_rotated_white_image_is_a_colour_image() -> None:
    turned = aug.Rotation(30)(np.ones_like(X), index=range(40), seed=1)
    assert aug.ColorJitter(0.2)(turned, index=range(40), seed=1).max() <= 1


def test_nan_stays_in_its_image() -> None:
    x = X.copy()
    x[7] = np.nan
    x[8, 1, 2, 3] = np.nan
    jitter = aug.ColorJitter(0.4, 0.4, 0.4, 0.1)
    y, clean = jitter(x, index=range(40), seed=1), jitter(X, index=range(40), seed=1)
    others = np.delete(np.arange(40), [7, 8])
    assert y[others].tobytes() == clean[others].tobytes()
    assert np.isnan(y[7]).all()
    assert np.isnan(y[8, 1, 2, 3])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 13])
def test_brightness_and_contrast_take_any_number_of_channels(channels: int) -> None:
    x = np.random.default_rng(3).random((9, channels, 6, 5), dtype=np.float32)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    bright = aug.ColorJitter(brightness=(0.5, 0.5))(x, index=range(9), seed=1)
    np.testing.assert_allclose(bright, x / 2, rtol=1e-6)
    y = aug.ColorJitter(0.3, 0.3)(x, index=range(9), seed=1)
    of_last = aug.ColorJitter(0.3, 0.3, channel_axis=-1)(last, index=range(9), seed=1)
    np.testing.assert_allclose(np.moveaxis(of_last, -1, 1), y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 4, 7, 13])
def test_contrast_of_other_channels_than_1_and_3_uses_the_mean_of_all(channels: int) -> None:
    x = np.random.default_rng(3).random((9, channels, 6, 5), dtype=np.float32)
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    flat = aug.ColorJitter(contrast=(0.25, 0.25))(x, index=range(9), seed=1)
    np.testing.assert_allclose(flat, 0.25 * x + 0.75 * mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 4, 7, 13])
def test_saturation_and_hue_of_other_channels_than_1_and_3_are_refused(channels: int) -> None:
    x = np.random.default_rng(3).random((9, channels, 6, 5), dtype=np.float32)
    for jitter in (aug.ColorJitter(hue=0.1), aug.ColorJitter(saturation=0.1), aug.ColorJitter(0.1, hue=0.1)):
        for n in (0, 1, 9):
            with pytest.raises(ValueError, match=f"3 channels .* or 1 for saturation and hue, got {channels}"):
                jitter(x[:n], index=range(n), seed=1)


def fit_cropped() -> None:
    net, flat = Sequential(Linear(360, 7, seed=1)), (X.reshape(40, 360), LABELS)
    crop = aug.AugmentBatches(aug.Augmentation(aug.RandomCrop(8), seed=1), shape=(3, 12, 10))
    fit(net, softmax_cross_entropy, SGD(net, 0.1), flat, flat, epochs=1, seed=1, callbacks=[crop])


soft = functools.partial(aug.Augmentation(mix=aug.Mixup(1.0), classes=7, seed=1), index=range(40), epoch=0)

BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: aug.HorizontalFlip(1.5), ValueError, r"p must be in \[0, 1\], got 1\.5"),
    (lambda: aug.RandomApply(aug.HorizontalFlip(), -0.1), ValueError, r"p must be in \[0, 1\], got -0\.1"),
    (lambda: aug.RandomApply(print), TypeError, "transforms must be Transform objects"),
    (lambda: aug.OneOf(), ValueError, "transforms must hold at least one"),
    (lambda: aug.OneOf(aug.HorizontalFlip(), weights=[0]), ValueError, "weights must not all be 0"),
    (lambda: aug.RandomCrop(0), ValueError, "size must be at least 1, got 0"),
    (lambda: aug.RandomCrop(3, padding_mode="wrap"), ValueError, "padding_mode must be 'zero' or 'reflect'"),
    (
        lambda: aug.RandomCrop(13)(X, index=range(40), seed=1),
        ValueError,
        r"size 13 is larger than the image .* 12 x 10",
    ),
    (lambda: aug.ColorJitter(hue=0.6), ValueError, r"hue must be in \[0, 0\.5\], got 0\.6"),
    (lambda: aug.ColorJitter(brightness=(1.2, 0.8)), ValueError, "brightness must be a pair .* low <= high"),
    (lambda: aug.GaussianNoise(-1), ValueError, "sigma must be finite and at least 0"),
    (lambda: aug.Cutout(3, channel_axis=2), ValueError, "channel_axis must be 1 .* or -1"),
    (lambda: aug.Mixup(0), ValueError, "alpha must be above 0"),
    (lambda: PIPELINE(X, index=range(39), seed=1), ValueError, r"index must have shape \(40,\)"),
    (lambda: PIPELINE(X, index=np.full(40, 0.5), seed=1), TypeError, "index must hold whole numbers"),
    (lambda: PIPELINE(X[:2], index=[0, 5.5], seed=1), TypeError, r"index must hold whole numbers .* got 5\.5 \("),
    (lambda: PIPELINE(X[:2], index=[0, "a"], seed=1), TypeError, r"index must hold whole numbers .* got a \("),
    (lambda: PIPELINE(X[:2], index=[0, 2**64], seed=1), TypeError, f"index must hold .* got {2**64} "),
    (
        fit_cropped,
        ValueError,
        r"must keep samples of shape \(3, 12, 10\), because the network takes \(360,\), got \(3, 8, 8\)",
    ),
    (lambda: PIPELINE(X[:1], index=[0], seed=1, epoch=-1), ValueError, r"epoch must be in \[0, \d+\], got -1"),
    (lambda: soft((X, LABELS), epoch=2**64), ValueError, r"epoch must be in \[0, \d+\], got 18446744073709551616"),
    (lambda: aug.AugmentedDataset(X, soft.func).set_epoch(1.5), TypeError, r"epoch must be an int, got float 1\.5"),
    (
        lambda: soft((X, LABELS.astype(float))),
        ValueError,
        r"targets must be class indices .* got float64 of shape \(40,",
    ),
    (lambda: soft((X, LABELS > 3)), ValueError, r"targets must be class indices .* got bool of shape \(40,\)"),
    (lambda: soft((X, LABELS.astype(object))), ValueError, "targets must be class indices .* got object"),
    (
        lambda: soft((X, np.eye(8)[LABELS])),
        ValueError,
        r"probabilities of classes = 7 .* got float64 of shape \(40, 8\)",
    ),
    (lambda: aug.RandomCrop(4, padding=None), TypeError, "padding must be an int, got NoneType None"),  # type: ignore[arg-type]
    (lambda: aug.RandomApply(3), TypeError, "transforms must be Transform objects, got int 3"),  # type: ignore[arg-type]
    (lambda: aug.RandomSwap()(["a", 3], index=[0, 1], seed=1), TypeError, "x must hold strings, got int 3"),
    (lambda: PIPELINE(X, index=np.full(40, -1), seed=1), ValueError, r"index must hold numbers from 0 to 2\*\*32 - 1"),
    (lambda: PIPELINE(X, index=range(40), seed=-1), ValueError, "seed must be from 0"),
    (lambda: PIPELINE((255 * X).astype(np.uint8), index=range(40), seed=1), TypeError, r"got uint8: convert .* / 255"),
    (lambda: aug.Cutout(2)(X[0], index=range(3), seed=1), ValueError, r"x must have shape \(samples, channels"),
    (
        lambda: aug.ColorJitter(hue=0.1)(np.moveaxis(X, 1, -1).copy(), index=range(40), seed=1),
        ValueError,
        "x must have 3 channels .* got 12 .* channel_axis=1",
    ),
    (lambda: aug.HorizontalFlip()([X[0]], index=[0], seed=1), TypeError, "x must be a NumPy array .* got list"),
    (lambda: aug.RandomCrop(4)([X[0]], index=[0], seed=1), TypeError, r"got list; use np\.stack"),
    (lambda: aug.OneOf(aug.HorizontalFlip(), weights=[1, 2]), ValueError, r"one number for each of 1 .* got \[1, 2\]"),
    (lambda: aug.CutMix(channel_axis=2), ValueError, "channel_axis must be 1 .* or -1 .* got 2"),
    (
        lambda: aug.Augmentation(mix=aug.CutMix(), seed=1)((X, LABELS), [1], epoch=0),
        ValueError,
        "classes must be the number of classes",
    ),
    (
        lambda: aug.Augmentation(mix=aug.CutMix(), classes=3, seed=1)((X, LABELS), range(40), epoch=0),
        ValueError,
        "targets must be class indices from 0 to 2 for classes=3, got 3",
    ),
    (
        lambda: aug.Augmentation(mix=aug.CutMix(), classes=3, seed=1)((X[:3], np.array([2, -1, 2])), range(3), epoch=0),
        ValueError,
        "targets must be class indices from 0 to 2 for classes=3, got -1",
    ),
    (
        lambda: aug.Mixup()(X, np.eye(40, dtype=np.float32), X.swapaxes(2, 3), X, index=np.arange(40), seed=1),
        ValueError,
        r"other must have the shape of x, \(40, 3, 12, 10\), got \(40, 3, 10, 12\)",
    ),
    (
        lambda: aug.CutMix()(X, LABELS, X, LABELS, index=np.arange(40), seed=1),
        TypeError,
        "targets must be a float32 array, got a int64 array",
    ),
    (
        lambda: aug.Augmentation(mix=aug.Mixup(), classes=2, seed=1)((["a", "b"], LABELS[:2]), [0, 1], epoch=0),
        TypeError,
        "x must be a float32 array, got",
    ),
    (lambda: aug.Augmentation(print), TypeError, "transform must be a Transform or None"),
    (lambda: aug.AugmentBatches(PIPELINE), TypeError, "augmentation must be an Augmentation"),
    (lambda: aug.AugmentedDataset(X, PIPELINE), TypeError, "augmentation must be an Augmentation"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_wrong_settings_are_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    before = X.tobytes()
    with pytest.raises(error, match=message):
        call()
    assert X.tobytes() == before


def test_a_pipeline_calls_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for op in (name for name in functional.__all__ if name.endswith("_images")):
        kernel = getattr(functional, op)
        monkeypatch.setattr(
            functional, op, functools.partial(lambda f, *a, **k: (calls.append(f.__name__), f(*a, **k))[1], kernel)
        )
    PIPELINE(X, index=range(40), seed=1)
    assert {"crop_images", "flip_images", "rotate_images", "jitter_images", "cutout_images"} <= set(calls)
    assert {case.op for case in cases.CASES} >= set(calls)
