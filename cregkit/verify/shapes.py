"""The shapes of the ops: those on which results are checked, and those on which calls are timed.

Checked shapes are small and straddle every edge of a kernel. Timed shapes are the sizes of real networks, in two lists:
those that the kernels were tuned on, and those that nothing was tuned on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Shape: TypeAlias = tuple[int, ...]

ROWS: tuple[Shape, ...] = (
    *((3, n) for n in (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 97, 127, 129, 255, 257, 1023, 1025, 4095, 4097, 16385)),
    (0, 8),
    (70, 33),
    (2, 3, 5, 48),
    (130, 1024),
)
"""Widths that straddle every lane, group and panel edge; no rows; more than two dimensions; more than one thread."""

MATRICES: tuple[Shape, ...] = (
    (3, 1, 1),
    (2, 1, 17),
    (5, 3, 11),
    (3, 5, 3277),
    (0, 2, 4),
    (70, 3, 11),
    (2, 3, 5, 13),
    (130, 16, 16),
)
"""Rows of two axes: a single element, odd numbers, few wide rows, no rows, four axes, more than one thread."""

CHANNELS_FIRST: tuple[Shape, ...] = (
    *((3, 1, 49), (2, 2, 65), (3, 3, 257), (2, 5, 1000), (2, 64, 63), (3, 65, 64), (2, 64, 255), (1, 130, 2)),
    (3, 65, 1),
    (0, 3, 4),
    (2, 768, 65),
    (2, 1025, 5),
    (3, 2, 5, 13),
    (2, 130, 8, 8),
    (2, 768, 7, 7),
)
"""Channels and positions that straddle the edges of vectors, tasks and sums; one position; no samples; images."""

LEADING: tuple[Shape, ...] = ((1, 257), (3, 2), (5, 63), (64, 65), (65, 1), (70, 33), (768, 49), (130, 1000))
"""Matrices that are normalised over their first axis."""

COLUMNS: tuple[Shape, ...] = (
    (2, 1),
    (7, 5),
    (9, 17),
    (63, 15),
    (64, 16),
    (65, 33),
    (129, 513),
    (200, 1025),
    (1000, 130),
)
PLANES: tuple[Shape, ...] = (
    (2, 1, 2),
    (3, 5, 7),
    (4, 3, 2, 2),
    (5, 33, 7, 7),
    (2, 3, 56, 56),
    (2, 2, 65, 65),
    (1, 2, 16385),
    (3, 5, 2, 3, 7),
)
CHANNELS_LAST: tuple[Shape, ...] = ((2, 3, 5), (4, 7, 7, 33), (3, 20, 20, 130), (3, 2, 3, 7, 5))


def _channels_last(channels_first: tuple[Shape, ...]) -> tuple[Shape, ...]:
    return tuple((n, *positions, c) for n, c, *positions in channels_first)


GROUPS: tuple[Shape, ...] = (
    (3, 20),
    (1, 6, 5, 13),
    (2, 2),
    (0, 6, 5),
    (1, 1280, 2),
    (3, 12, 2, 1),
    (3, 320, 7, 7),
    (2, 64, 8, 8),
    (2, 2, 4097),
    (2, 4, 3, 5, 7),
    (3, 6, 4097),
)
GROUPS_LAST: tuple[Shape, ...] = _channels_last(GROUPS)
"""Groups of 1, 2, 3, 5, 10 and 40 channels (``inputs.groups_of``); planes of 1 to 4097 elements; no samples."""

ELEMENTS: tuple[Shape, ...] = (
    *((n,) for n in (0, 1, 15, 17, 63, 65, 127, 128, 129, 1000, 4097)),
    (3, 5, 7),
    (130, 1025),
)
WEIGHTS: tuple[Shape, ...] = (
    *((3, n) for n in (1, 15, 17, 63, 65, 1000, 4097, 16385)),
    (0, 8),
    (8, 0),
    (70, 33),
    (2, 3, 5, 48),
    (130, 1024),
)
"""Units and their incoming weights: the edges of vectors and panels; no units; no weights; more than one thread."""

MAPS: tuple[Shape, ...] = ((0, 3, 2), (3, 5), (2, 3, 17), (5, 200, 3), (4, 33, 7, 7), (2, 40, 33, 65))

IMAGES: tuple[Shape, ...] = ((1, 1, 1, 1), (4, 3, 5, 2), (3, 1, 1, 7), (9, 3, 8, 9), (6, 3, 17, 33), (2, 3, 65, 97))
IMAGES_LAST: tuple[Shape, ...] = (
    (1, 1, 1, 1),
    (4, 5, 2, 3),
    (3, 1, 7, 1),
    (9, 8, 9, 3),
    (6, 17, 33, 3),
    (2, 65, 97, 3),
)
"""Odd sizes, lines and single pixels; in colour and in gray."""

LADDER: tuple[Shape, ...] = ((1, 768), (32, 256), (512, 768), (4096, 1024), (8192, 4096))
"""From one row to beyond the LLC."""


@dataclass(frozen=True)
class Timed:
    """The shapes on which an op is timed."""

    tuned: tuple[Shape, ...]
    held_out: tuple[Shape, ...]
    quick: tuple[Shape, ...]
    """Small, in cache, and beyond cache: for ``--quick`` and for ``bench/``."""


TIMED_ROWS = Timed(
    tuned=(*LADDER, (300, 513), (8, 65537), (100_000, 33), (8, 128, 512), (2, 12, 128, 128)),
    held_out=((3, 1000), (17, 640), (777, 1023), (2048, 2560), (6000, 5001), (5, 200_001), (200_003, 19),
              (4, 197, 768), (3, 5, 61, 257)),
    quick=((1, 768), (512, 768), (4096, 1024)),
)  # fmt: skip
TIMED_OPTIONS = Timed(
    tuned=((1, 768), (512, 768), (4096, 1024)),
    held_out=((3, 1000), (777, 1023), (2048, 2560)),
    quick=((1, 768), (512, 768), (4096, 1024)),
)
"""For an option of an op that is timed elsewhere and uses the same kernels."""
TIMED_MATRICES = Timed(
    tuned=((1, 3, 256), (512, 3, 256), (64, 64, 32, 32)),
    held_out=((3, 4, 250), (777, 3, 341), (32, 48, 61, 61)),
    quick=((1, 3, 256), (512, 3, 256), (64, 64, 32, 32)),
)
TIMED_CHANNELS_FIRST = Timed(
    tuned=((1, 64, 8, 8), (16, 96, 56, 56), (16, 384, 14, 14), (16, 768, 7, 7)),
    held_out=((3, 5, 9, 9), (10, 48, 61, 61), (24, 193, 13, 13), (64, 320, 7, 7), (8, 130, 1001)),
    quick=((1, 64, 8, 8), (16, 384, 14, 14), (16, 96, 56, 56)),
)
"""Stages of ConvNeXt."""
TIMED_LEADING = Timed(
    tuned=((64, 64), (256, 1024), (768, 4096)),
    held_out=((100, 65), (320, 999), (641, 5001)),
    quick=((64, 64), (256, 1024), (768, 4096)),
)
TIMED_COLUMNS = Timed(
    tuned=(*LADDER[1:], (1000, 33), (16, 20_000)),
    held_out=((64, 100), (999, 641), (60_000, 48), (2048, 3000), (20, 33_333)),
    quick=((32, 256), (512, 768), (4096, 1024)),
)
TIMED_PLANES = Timed(
    tuned=((2, 8, 7, 7), (32, 64, 56, 56), (32, 256, 14, 14), (32, 512, 7, 7), (16, 64, 500), (128, 64, 56, 56)),
    held_out=((3, 5, 9, 9), (10, 48, 61, 61), (24, 192, 13, 13), (64, 320, 7, 7), (4, 24, 112, 112), (7, 33, 1001)),
    quick=((2, 8, 7, 7), (32, 512, 7, 7), (32, 64, 56, 56)),
)
TIMED_MAPS = Timed(
    tuned=((2, 8, 7, 7), (32, 64, 56, 56), (32, 256, 14, 14), (32, 512, 7, 7), (128, 64, 56, 56)),
    held_out=((3, 5, 9, 9), (10, 48, 61, 61), (24, 192, 13, 13), (64, 320, 7, 7), (4, 24, 112, 112)),
    quick=((2, 8, 7, 7), (32, 512, 7, 7), (32, 64, 56, 56)),
)
TIMED_CHANNELS_LAST = Timed(
    tuned=((2, 7, 7, 8), (32, 56, 56, 64), (32, 14, 14, 256), (32, 7, 7, 512)),
    held_out=((3, 9, 9, 5), (10, 61, 61, 48), (24, 13, 13, 193), (64, 7, 7, 320)),
    quick=((2, 7, 7, 8), (32, 7, 7, 512), (32, 56, 56, 64)),
)
TIMED_GROUPS = Timed(
    tuned=((8, 16, 7, 7), (2, 1280, 8, 8), (2, 640, 32, 32), (2, 320, 64, 64)),
    held_out=((3, 40, 9, 9), (4, 96, 28, 28), (16, 2048, 7, 7), (1, 512, 61, 67)),
    quick=((8, 16, 7, 7), (2, 1280, 8, 8), (2, 320, 64, 64)),
)
TIMED_INSTANCES = Timed(
    tuned=((8, 16, 7, 7), (2, 320, 8, 8, 8), (4, 64, 128, 128), (2, 32, 64, 64, 64)),
    held_out=((3, 5, 9, 9), (2, 48, 33, 35, 31), (1, 128, 61, 67), (7, 33, 1001)),
    quick=((8, 16, 7, 7), (2, 320, 8, 8, 8), (2, 32, 64, 64, 64)),
)
TIMED_GROUPS_LAST, TIMED_INSTANCES_LAST = (
    Timed(_channels_last(timed.tuned), _channels_last(timed.held_out), _channels_last(timed.quick))
    for timed in (TIMED_GROUPS, TIMED_INSTANCES)
)
TIMED_SUBLAYERS = Timed(
    tuned=((1, 768), (32, 256), (1024, 512), (4096, 1024), (8192, 4096), (300, 513), (100_000, 33), (8, 128, 512)),
    held_out=((3, 1000), (777, 1023), (2048, 2560), (6000, 5001), (200_003, 19), (4, 197, 768)),
    quick=((32, 256), (1024, 512), (4096, 1024)),
)
TIMED_ELEMENTS = Timed(
    tuned=(*LADDER, (50_001,), (32, 64, 56, 56)),
    held_out=((1000,), (45_000,), (777, 1023), (3, 5, 61, 257), (2048, 2560), (6000, 5001)),
    quick=((1, 768), (512, 768), (4096, 1024)),
)
TIMED_WEIGHTS = Timed(
    tuned=((1000,), (784, 256), (10_000_000,)),
    held_out=((333,), (1023, 511), (12_345_678,)),
    quick=((1000,), (784, 256), (10_000_000,)),
)
TIMED_UNITS = Timed(
    tuned=((64, 64), (784, 256), (4096, 2441)),
    held_out=((33, 65), (1023, 511), (50_003, 19)),
    quick=((64, 64), (784, 256), (4096, 2441)),
)
TIMED_IMAGES = Timed(
    tuned=((1, 3, 32, 32), (256, 3, 32, 32), (64, 3, 224, 224)),
    held_out=((1, 3, 28, 29), (100, 3, 33, 31), (17, 3, 255, 257)),
    quick=((1, 3, 32, 32), (256, 3, 32, 32), (64, 3, 224, 224)),
)
TIMED_IMAGES_LAST = Timed(
    tuned=((1, 32, 32, 3), (256, 32, 32, 3), (64, 224, 224, 3)),
    held_out=((1, 28, 29, 3), (100, 33, 31, 3), (17, 255, 257, 3)),
    quick=((1, 32, 32, 3), (256, 32, 32, 3), (64, 224, 224, 3)),
)
