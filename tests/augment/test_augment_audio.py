"""Augmentation of audio: signal-to-noise ratio, gain, shift, and pitch and length of stretched tones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Array

from cregkit import augment as aug

RATE, HOP = 22_050, 512
TONE = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)[np.newaxis]
CLIPS = np.random.default_rng(0).standard_normal((8, 3000)).astype(np.float32)


def pitch(clip: Array) -> float:
    n = 1 << 20
    spectrum = np.abs(np.fft.rfft(clip * np.hanning(len(clip)), n))
    return float(spectrum.argmax() * RATE / n)


@pytest.mark.parametrize("rate", [0.8, 1.25])
def test_a_stretched_tone_keeps_its_pitch(rate: float) -> None:
    pytest.importorskip("librosa", reason="librosa is not installed")
    y = aug.time_stretch(TONE, rate)
    assert abs(y.shape[1] - RATE / rate) <= HOP
    assert abs(pitch(y[0]) - 440) < 1
    assert y.dtype == np.float32


@pytest.mark.parametrize(("semitones", "wanted"), [(12, 880.0), (-12, 220.0), (7, 440 * 2 ** (7 / 12))])
def test_a_shifted_tone_has_its_new_pitch(semitones: float, wanted: float) -> None:
    pytest.importorskip("librosa", reason="librosa is not installed")
    y = aug.pitch_shift(TONE, semitones, RATE)
    assert y.shape == TONE.shape
    assert abs(pitch(y[0]) / wanted - 1) < 0.01


def test_a_stretched_clip_is_the_same_in_any_batch() -> None:
    pytest.importorskip("librosa", reason="librosa is not installed")
    stretch = aug.TimeStretch((0.9, 1.1), length=2500)
    y = stretch(CLIPS[:3], index=[4, 5, 6], seed=1)
    assert y.shape == (3, 2500)
    assert y[1].tobytes() == stretch(CLIPS[1:2], index=[5], seed=1)[0].tobytes()


def test_a_faster_clip_ends_in_silence() -> None:
    pytest.importorskip("librosa", reason="librosa is not installed")
    fast = aug.TimeStretch(2.0)(CLIPS[:1], index=[0], seed=1)
    assert fast.shape == (1, 3000)
    assert not fast[0, 1500:].any()


def test_a_pitch_shift_keeps_the_shape() -> None:
    pytest.importorskip("librosa", reason="librosa is not installed")
    assert aug.PitchShift(2, RATE)(CLIPS[:2], index=[0, 1], seed=1).shape == (2, 3000)


@pytest.mark.parametrize("snr", [0.0, 10.0, 30.0])
def test_noise_has_its_signal_to_noise_ratio(snr: float) -> None:
    noise = (aug.AddNoise(snr)(TONE, index=[3], seed=2) - TONE).astype(np.float64)
    got = 10 * np.log10(np.square(TONE).mean() / np.square(noise).mean())
    assert abs(got - snr) < 0.3


@pytest.mark.parametrize("snr", [0.0, 10.0, 30.0])
def test_silence_gets_no_noise(snr: float) -> None:
    assert not aug.AddNoise(snr)(np.zeros((1, 50), np.float32), index=[0], seed=2).any()


def test_gains_are_in_decibels() -> None:
    y = aug.Gain((20, 20))(CLIPS, index=range(8), seed=1)
    np.testing.assert_allclose(y, 10 * CLIPS, rtol=1e-6)
    ratios = aug.Gain(6)(CLIPS, index=range(8), seed=1)[:, 0] / CLIPS[:, 0]
    assert (np.abs(20 * np.log10(ratios)) <= 6.001).all()
    assert ratios.std() > 0.1


def test_shifts_are_uniform_and_leave_silence_or_wrap() -> None:
    x = np.tile(np.arange(1, 101, dtype=np.float32), (200, 1))
    y = aug.TimeShift(0.02, 1000)(x, index=range(200), seed=1)
    shifts = set()
    for clip in y:
        first = int(np.flatnonzero(clip)[0])
        shift = first if first else 1 - int(clip[0])
        wanted = np.zeros(100)
        wanted[max(0, shift) : 100 + min(0, shift)] = x[0, max(0, -shift) : 100 - max(0, shift)]
        assert np.array_equal(clip, wanted)
        shifts.add(shift)
    assert (min(shifts), max(shifts)) == (-20, 20)
    wrapped = aug.TimeShift(0.02, 1000, wrap=True)(x, index=range(200), seed=1)
    assert all(sorted(clip) == sorted(x[0]) for clip in wrapped)
    assert {int(1 - clip[0]) % 100 for clip in wrapped} == {shift % 100 for shift in shifts}


@pytest.mark.parametrize("transform", [aug.AddNoise((5, 20)), aug.Gain(6), aug.TimeShift(0.1, 8000)], ids=repr)
def test_a_clip_is_the_same_in_any_batch(transform: Any) -> None:
    before = CLIPS.tobytes()
    whole = transform(CLIPS, index=range(8), seed=5, epoch=2)
    assert CLIPS.tobytes() == before
    for i in range(8):
        assert transform(CLIPS[i : i + 1], index=[i], seed=5, epoch=2)[0].tobytes() == whole[i].tobytes()
    assert aug.Compose(aug.Compose(), transform)(CLIPS, index=range(8), seed=5).shape == CLIPS.shape


NAN = CLIPS.copy()
NAN[3, 7] = np.nan


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: aug.Gain(6)(NAN, index=range(8), seed=1),
            ValueError,
            "x must be finite, got NaN or infinity in clip 3",
        ),
        (lambda: aug.pitch_shift(NAN, 1, RATE), ValueError, "x must be finite"),
        (lambda: aug.Gain(3)(np.zeros((1, 9), np.int16), index=[0], seed=1), TypeError, r"int16 array; use .* / 32768"),
        (lambda: aug.time_stretch(TONE[0], 1.1), ValueError, r"x must have shape \(clips, samples\), got \(22050,\)"),
        (lambda: aug.time_stretch(TONE, 0), ValueError, r"rate must be in \[0\.05, 20\], got 0"),
        (lambda: aug.pitch_shift(TONE, 1, 0), ValueError, "sample_rate must be at least 1, got 0"),
        (lambda: aug.PitchShift(1, 0), ValueError, "sample_rate must be at least 1, got 0"),
        (lambda: aug.TimeShift(0.1, 0), ValueError, "sample_rate must be at least 1, got 0"),
        (lambda: aug.TimeStretch((2, 1)), ValueError, "rate must be a pair .* low <= high"),
        (lambda: aug.AddNoise("loud"), TypeError, "snr_db must be a number"),
        (lambda: aug.Gain(3)(TONE.astype(np.float64), index=[0], seed=1), TypeError, "x must be a float32 array"),
    ],
)
def test_wrong_calls_are_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
