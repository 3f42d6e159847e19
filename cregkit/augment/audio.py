"""Audio transforms: float32 clips of shape (N, samples), with values about -1 to 1.

Time stretch and pitch shift need librosa (extra ``[augment]``), which is imported on first use.
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
    """Add white Gaussian noise at a given signal-to-noise ratio.

    ``x + sigma * z`` with z from N(0, 1) and ``sigma**2 = mean(x**2) / 10**(snr_db / 10)`` per clip. Silent clips are
    unchanged.

    Attributes
    ----------
    snr_db
        Signal-to-noise ratio in decibels, in [-200, 200]: a number, or an interval (low, high) to draw from.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import AddNoise
    >>> clips = np.array([[0.0, 1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    >>> AddNoise(20)(clips, index=[0, 1], seed=0).round(3)
    array([[ 0.109,  0.981, -0.046, -1.174],
           [ 0.   ,  0.   ,  0.   ,  0.   ]], dtype=float32)
    """

    snr_db: float | Interval

    def __post_init__(self) -> None:
        """Validate the settings."""
        _ = self._snr_db

    @property
    def _snr_db(self) -> Interval:
        return interval("snr_db", self.snr_db, -200, 200)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the signal-to-noise ratios and add the noise."""
        checked_clips(x)
        snr = between(uniform(index, 1, derive_seed(seed, 0))[:, 0], self._snr_db)
        power = np.square(x, dtype=np.float64).mean(axis=1)
        sigma = np.sqrt(power / 10 ** (snr / 10)).astype(np.float32)
        return functional.gaussian_noise(x, sigma, index, seed=derive_seed(seed, 1), out=x if overwrite else None)


@dataclass(frozen=True)
class Gain(ArrayTransform):
    """Multiply each clip by a random gain, ``x * 10**(db / 20)``, without clipping.

    Attributes
    ----------
    db
        Interval (low, high) of the gain in decibels, within [-200, 200]; a number ``a`` means (-a, a).

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import Gain
    >>> clips = np.array([[0.0, 1.0, 0.0, -1.0]], np.float32)
    >>> Gain((-6, -6))(clips, index=[0], seed=0).round(3)
    array([[ 0.   ,  0.501,  0.   , -0.501]], dtype=float32)
    """

    db: float | Interval

    def __post_init__(self) -> None:
        """Validate the settings."""
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
    """Shift each clip in time by a random whole number of samples.

    Attributes
    ----------
    seconds
        Largest shift in either direction, at least 0.
    sample_rate
        Samples per second, at least 1.
    wrap
        Whether the shift is circular; otherwise the gap is filled with zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import TimeShift
    >>> clips = np.array([[1, 2, 3, 4]], np.float32)
    >>> TimeShift(2, sample_rate=1)(clips, index=[0], seed=0)
    array([[2., 3., 4., 0.]], dtype=float32)
    >>> TimeShift(2, sample_rate=1, wrap=True)(clips, index=[0], seed=0)
    array([[2., 3., 4., 1.]], dtype=float32)
    """

    seconds: float
    sample_rate: int
    wrap: bool = False

    def __post_init__(self) -> None:
        """Validate the settings."""
        validate.real("seconds", self.seconds, 0)
        validate.positive_int("sample_rate", self.sample_rate)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the shifts and apply them."""
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
    """Change the speed of each clip by a random factor, at constant pitch.

    See ``time_stretch``. The result is cut or zero-padded at the end to a fixed length.

    Attributes
    ----------
    rate
        Speed factor in [0.05, 20], above 1 for faster: a number, or an interval (low, high) to draw from.
    length
        Length of the result in samples, at least 1. None keeps the length of the input.

    Raises
    ------
    ImportError
        librosa is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import TimeStretch
    >>> clips = np.sin(np.arange(4096, dtype=np.float32) / 6)[np.newaxis]
    >>> TimeStretch((0.8, 1.25))(clips, index=[0], seed=0).shape
    (1, 4096)
    >>> TimeStretch(2.0, length=2048)(clips, index=[0], seed=0).shape
    (1, 2048)
    """

    rate: float | Interval
    length: int | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        _ = self._rate
        if self.length is not None:
            validate.positive_int("length", self.length)

    @property
    def _rate(self) -> Interval:
        return interval("rate", self.rate, 0.05, 20)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the speed factors and stretch the clips."""
        checked_clips(x)
        y = np.zeros((len(x), self.length or x.shape[1]), np.float32)
        for clip, rate, result in zip(x, between(uniform(index, 1, seed)[:, 0], self._rate), y, strict=True):
            stretched = time_stretch(clip[np.newaxis], rate)[0][: len(result)]
            result[: len(stretched)] = stretched
        return y


@dataclass(frozen=True)
class PitchShift(ArrayTransform):
    """Shift the pitch of each clip by a random number of semitones, at constant length.

    See ``pitch_shift``.

    Attributes
    ----------
    semitones
        Interval (low, high) of the shift in semitones, within [-48, 48]; a number ``a`` means (-a, a).
    sample_rate
        Samples per second, at least 1.

    Raises
    ------
    ImportError
        librosa is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import PitchShift
    >>> clips = np.sin(np.arange(4096, dtype=np.float32) / 6)[np.newaxis]
    >>> PitchShift(2, sample_rate=8000)(clips, index=[0], seed=0).shape
    (1, 4096)
    """

    semitones: float | Interval
    sample_rate: int

    def __post_init__(self) -> None:
        """Validate the settings."""
        _ = self._semitones
        validate.positive_int("sample_rate", self.sample_rate)

    @property
    def _semitones(self) -> Interval:
        return interval("semitones", self.semitones, -48, 48, centre=0)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the intervals and shift the pitch."""
        checked_clips(x)
        semitones = between(uniform(index, 1, seed)[:, 0], self._semitones)
        shifted = [
            pitch_shift(clip[np.newaxis], by, self.sample_rate)[0] for clip, by in zip(x, semitones, strict=True)
        ]
        return np.stack(shifted) if shifted else x.copy()


def time_stretch(x: Array, rate: float) -> Array:
    """Change the speed of clips by a factor, at constant pitch.

    Uses librosa's phase vocoder with 2048-sample frames and a hop of 512 samples.

    Parameters
    ----------
    x : shape (N, samples), float32
        Clips, finite.
    rate
        Speed factor in [0.05, 20], above 1 for faster.

    Returns
    -------
    array, shape (N, round(samples / rate)), float32
        The stretched clips.

    Raises
    ------
    ImportError
        librosa is not installed.
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong shape or value.

    References
    ----------
    Flanagan and Golden (1966), "Phase Vocoder", Bell System Technical Journal 45(9).

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import time_stretch
    >>> clips = np.sin(np.arange(4096, dtype=np.float32) / 6)[np.newaxis]
    >>> time_stretch(clips, 2.0).shape
    (1, 2048)
    """
    checked_clips(x)
    rate = validate.real("rate", rate, 0.05, 20)
    effects = _librosa().effects
    return np.ascontiguousarray(effects.time_stretch(x, rate=rate), dtype=np.float32)


def pitch_shift(x: Array, semitones: float, sample_rate: int) -> Array:
    """Shift the pitch of clips by a number of semitones, at constant length.

    Uses librosa: a time stretch followed by resampling with soxr.

    Parameters
    ----------
    x : shape (N, samples), float32
        Clips, finite.
    semitones
        Shift in [-48, 48], above 0 for a higher pitch.
    sample_rate
        Samples per second, at least 1.

    Returns
    -------
    array, shape (N, samples), float32
        The shifted clips.

    Raises
    ------
    ImportError
        librosa is not installed.
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong shape or value.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import pitch_shift
    >>> clips = np.sin(np.arange(4096, dtype=np.float32) / 6)[np.newaxis]
    >>> pitch_shift(clips, 12, sample_rate=8000).shape
    (1, 4096)
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
    """Raise unless ``x`` is a finite float32 array of shape (N, samples)."""
    if isinstance(x, np.ndarray) and x.dtype == np.int16:
        raise TypeError(
            "x must be a float32 array, got an int16 array; use x.astype(np.float32) / 32768, which scales to [-1, 1)"
        )
    validate.float32("x", x)
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"x must have shape (clips, samples), got {x.shape}: one clip is x[np.newaxis]")
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise ValueError(f"x must be finite, got NaN or infinity in clip {int(np.argmin(finite))}")
