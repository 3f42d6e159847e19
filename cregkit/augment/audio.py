"""Transforms of clips of audio: float32, shape (N, samples), values about -1 to 1.

Time stretch and pitch shift go through librosa (extra ``[augment]``), which is imported when they are first used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cregkit import _validate as validate
from cregkit import functional
from cregkit.augment.base import ArrayTransform, Index, Interval, between, interval, uniform
from cregkit.kernels.noise import derive_seed
from cregkit.layers.base import Array


@dataclass(frozen=True)
class AddNoise(ArrayTransform):
    """White Gaussian noise at a ratio of signal to noise of ``snr_db`` decibels: a number, or a pair to draw from.

    The power of the noise is the clip's own mean square over 10^(snr / 10); silence stays silence.
    """

    snr_db: float | Interval

    def __post_init__(self) -> None:
        """Check the settings."""
        _ = self._snr_db

    @property
    def _snr_db(self) -> Interval:
        return interval("snr_db", self.snr_db, -200, 200)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the ratios and add the noise."""
        checked_clips(x)
        snr = between(uniform(index, 1, derive_seed(seed, 0))[:, 0], self._snr_db)
        power = np.square(x, dtype=np.float64).mean(axis=1)
        sigma = np.sqrt(power / 10 ** (snr / 10)).astype(np.float32)
        return functional.gaussian_noise(x, sigma, index, seed=derive_seed(seed, 1), out=x if overwrite else None)


@dataclass(frozen=True)
class Gain(ArrayTransform):
    """Louder by ``db`` decibels: a pair to draw from, or a number for up to that much each way. Nothing is clipped."""

    db: float | Interval

    def __post_init__(self) -> None:
        """Check the settings."""
        _ = self._db

    @property
    def _db(self) -> Interval:
        return interval("db", self.db, -200, 200, centre=0)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the gains and multiply."""
        checked_clips(x)
        factors = (10 ** (between(uniform(index, 1, seed), self._db) / 20)).astype(np.float32)
        return np.multiply(x, factors, out=x if overwrite else None)


@dataclass(frozen=True)
class TimeShift(ArrayTransform):
    """Later or earlier by up to ``seconds``: silence comes in, or with ``wrap`` what went out at the other end."""

    seconds: float
    sample_rate: int
    wrap: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        validate.real("seconds", self.seconds, 0)
        validate.positive_int("sample_rate", self.sample_rate)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the shifts and move the samples."""
        checked_clips(x)
        n = x.shape[1]
        most = round(self.seconds * self.sample_rate)
        shift = np.floor(uniform(index, 1, seed) * (2 * most + 1)).astype(np.int64) - most
        if self.wrap:
            return np.take_along_axis(x, (np.arange(n) - shift) % n, axis=1)
        corners = np.concatenate([np.zeros_like(shift), -shift], axis=1)
        return functional.crop_images(x.reshape(len(x), 1, 1, n), corners, (1, n)).reshape(x.shape)


@dataclass(frozen=True)
class TimeStretch(ArrayTransform):
    """Faster by a factor drawn from ``rate``, at the same pitch: a pair, or one number.

    Clips stay as long as they are (what is missing at the end is silence), or become ``length`` samples.
    """

    rate: float | Interval
    length: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        _ = self._rate
        if self.length is not None:
            validate.positive_int("length", self.length)

    @property
    def _rate(self) -> Interval:
        return interval("rate", self.rate, 0.05, 20)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the factors and stretch."""
        checked_clips(x)
        y = np.zeros((len(x), self.length or x.shape[1]), np.float32)
        for clip, rate, result in zip(x, between(uniform(index, 1, seed)[:, 0], self._rate), y, strict=True):
            stretched = time_stretch(clip[np.newaxis], rate)[0][: len(result)]
            result[: len(stretched)] = stretched
        return y


@dataclass(frozen=True)
class PitchShift(ArrayTransform):
    """Higher by ``semitones`` at the same length: a pair to draw from, or a number for up to that much each way."""

    semitones: float | Interval
    sample_rate: int

    def __post_init__(self) -> None:
        """Check the settings."""
        _ = self._semitones
        validate.positive_int("sample_rate", self.sample_rate)

    @property
    def _semitones(self) -> Interval:
        return interval("semitones", self.semitones, -48, 48, centre=0)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the intervals and shift."""
        checked_clips(x)
        semitones = between(uniform(index, 1, seed)[:, 0], self._semitones)
        shifted = [
            pitch_shift(clip[np.newaxis], by, self.sample_rate)[0] for clip, by in zip(x, semitones, strict=True)
        ]
        return np.stack(shifted) if shifted else x.copy()


def time_stretch(x: Array, rate: float) -> Array:
    """Return the clips played ``rate`` times as fast at the same pitch: float32, shape (N, round(samples / rate)).

    A phase vocoder with frames of 2048 samples and hops of 512 (Flanagan and Golden, 1966), by librosa.

    Raises:
        ImportError: librosa is not installed.
        TypeError, ValueError: an argument has the wrong type, shape or value.
    """
    checked_clips(x)
    rate = validate.real("rate", rate, 0.05, 20)
    effects = _librosa().effects
    return np.ascontiguousarray(effects.time_stretch(x, rate=rate), dtype=np.float32)


def pitch_shift(x: Array, semitones: float, sample_rate: int) -> Array:
    """Return the clips higher by ``semitones`` at the same length: float32 like ``x``.

    A time stretch and a change of the sample rate (by soxr), by librosa; raises as ``time_stretch`` does.
    """
    checked_clips(x)
    semitones = validate.real("semitones", semitones, -48, 48)
    sample_rate = validate.positive_int("sample_rate", sample_rate)
    effects = _librosa().effects
    return np.ascontiguousarray(effects.pitch_shift(x, sr=sample_rate, n_steps=semitones), dtype=np.float32)


def _librosa() -> Any:
    try:
        import librosa
    except ImportError as error:
        raise ImportError("time stretch and pitch shift need librosa: pip install 'cregkit[augment]'") from error
    return librosa


def checked_clips(x: Any) -> None:
    """Refuse what is not float32 clips of shape (N, samples), all finite."""
    if isinstance(x, np.ndarray) and x.dtype == np.int16:
        raise TypeError(
            "x must be a float32 array, got an int16 array; use x.astype(np.float32) / 32768, which gives values from "
            "-1 to 1"
        )
    validate.float32("x", x)
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"x must have shape (clips, samples), got {x.shape}: one clip is x[np.newaxis]")
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise ValueError(f"x must be finite, got NaN or infinity in clip {int(np.argmin(finite))}")
