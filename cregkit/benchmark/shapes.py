"""The measured shapes: one list that the kernels were tuned on, and a held-out list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cregkit.cases import Shape

LADDER: tuple[Shape, ...] = ((1, 768), (32, 256), (512, 768), (4096, 1024), (8192, 4096))
"""From one row to beyond the LLC."""


@dataclass(frozen=True)
class Shapes:
    """The shapes of an op: tuned on, held out, and for quick runs."""

    tuned: tuple[Shape, ...]
    held_out: tuple[Shape, ...]
    quick: tuple[Shape, ...]
    """Small, in cache, and beyond cache: for ``--quick`` and for ``bench/``."""


ROWS = Shapes(
    tuned=(*LADDER, (300, 513), (8, 65537), (100_000, 33), (8, 128, 512), (2, 12, 128, 128)),
    held_out=((3, 1000), (17, 640), (777, 1023), (2048, 2560), (6000, 5001), (5, 200_001), (200_003, 19),
              (4, 197, 768), (3, 5, 61, 257)),
    quick=((1, 768), (512, 768), (4096, 1024)),
)  # fmt: skip
COLUMNS = Shapes(
    tuned=(*LADDER[1:], (1000, 33), (16, 20_000)),
    held_out=((64, 100), (999, 641), (60_000, 48), (2048, 3000), (20, 33_333)),
    quick=((32, 256), (512, 768), (4096, 1024)),
)
PLANES = Shapes(
    tuned=((2, 8, 7, 7), (32, 64, 56, 56), (32, 256, 14, 14), (32, 512, 7, 7), (16, 64, 500), (128, 64, 56, 56)),
    held_out=((3, 5, 9, 9), (10, 48, 61, 61), (24, 192, 13, 13), (64, 320, 7, 7), (4, 24, 112, 112), (7, 33, 1001)),
    quick=((2, 8, 7, 7), (32, 512, 7, 7), (32, 64, 56, 56)),
)
CHANNELS_LAST = Shapes(
    tuned=((2, 7, 7, 8), (32, 56, 56, 64), (32, 14, 14, 256), (32, 7, 7, 512)),
    held_out=((3, 9, 9, 5), (10, 61, 61, 48), (24, 13, 13, 193), (64, 7, 7, 320)),
    quick=((2, 7, 7, 8), (32, 7, 7, 512), (32, 56, 56, 64)),
)
SUBLAYERS = Shapes(
    tuned=((1, 768), (32, 256), (1024, 512), (4096, 1024), (8192, 4096), (300, 513), (100_000, 33), (8, 128, 512)),
    held_out=((3, 1000), (777, 1023), (2048, 2560), (6000, 5001), (200_003, 19), (4, 197, 768)),
    quick=((32, 256), (1024, 512), (4096, 1024)),
)
ELEMENTS = Shapes(
    tuned=(*LADDER, (50_001,), (32, 64, 56, 56)),
    held_out=((1000,), (45_000,), (777, 1023), (3, 5, 61, 257), (2048, 2560), (6000, 5001)),
    quick=((1, 768), (512, 768), (4096, 1024)),
)
WEIGHTS = Shapes(
    tuned=((1000,), (784, 256), (10_000_000,)),
    held_out=((333,), (1023, 511), (12_345_678,)),
    quick=((1000,), (784, 256), (10_000_000,)),
)
IMAGES = Shapes(
    tuned=((1, 3, 32, 32), (256, 3, 32, 32), (64, 3, 224, 224)),
    held_out=((1, 3, 28, 29), (100, 3, 33, 31), (17, 3, 255, 257)),
    quick=((1, 3, 32, 32), (256, 3, 32, 32), (64, 3, 224, 224)),
)
IMAGES_LAST = Shapes(
    tuned=((1, 32, 32, 3), (256, 32, 32, 3), (64, 224, 224, 3)),
    held_out=((1, 28, 29, 3), (100, 33, 31, 3), (17, 255, 257, 3)),
    quick=((1, 32, 32, 3), (256, 32, 32, 3), (64, 224, 224, 3)),
)

SHAPES: Mapping[str, Shapes] = {
    "layer_norm": ROWS,
    "layer_norm_forward": ROWS,
    "layer_norm_backward": ROWS,
    "rms_norm": ROWS,
    "rms_norm_forward": ROWS,
    "rms_norm_backward": ROWS,
    "batch_norm_forward[N, C]": COLUMNS,
    "batch_norm_forward[N, C, ...]": PLANES,
    "batch_norm_forward[..., C]": CHANNELS_LAST,
    "batch_norm_backward[N, C]": COLUMNS,
    "batch_norm_backward[N, C, ...]": PLANES,
    "batch_norm_backward[..., C]": CHANNELS_LAST,
    "batch_norm[N, C]": COLUMNS,
    "batch_norm[N, C, ...]": PLANES,
    "batch_norm[..., C]": CHANNELS_LAST,
    "batch_norm_inference_backward[N, C]": COLUMNS,
    "batch_norm_inference_backward[N, C, ...]": PLANES,
    "batch_norm_inference_backward[..., C]": CHANNELS_LAST,
    **{
        f"dropout_add_{norm}_{direction}[p = {p}]": SUBLAYERS
        for norm in ("layer_norm", "rms_norm")
        for direction in ("forward", "backward")
        for p in ("0.5", "0")
    },
    "dropout": ELEMENTS,
    "dropout_backward": ELEMENTS,
    "dropout_keep": ELEMENTS,
    "spatial_dropout": PLANES,
    "spatial_dropout_backward": PLANES,
    **{
        f"{op}_images[{label}]": shapes
        for label, shapes in (("N, C, H, W", IMAGES), ("N, H, W, C", IMAGES_LAST))
        for op in ("flip", "rotate", "cutout", "cutmix", "jitter")
    },
    **{
        f"crop_images[{mode}, {label}]": shapes
        for label, shapes in (("N, C, H, W", IMAGES), ("N, H, W, C", IMAGES_LAST))
        for mode in ("zero", "reflect")
    },
    "mixup_images": IMAGES,
    "gaussian_noise": IMAGES,
    "sample_uniform": COLUMNS,
    "l2_penalty": WEIGHTS,
    "l2_gradient": WEIGHTS,
    "sgd_step": WEIGHTS,
    "adamw_step[decoupled]": WEIGHTS,
    "adamw_step[coupled]": WEIGHTS,
}
"""The shapes by the name of the case."""

PROMISED = (
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
    "batch_norm_forward[N, C]",
    "batch_norm_forward[N, C, ...]",
    "batch_norm_forward[..., C]",
    "batch_norm_backward[N, C]",
    "batch_norm_backward[N, C, ...]",
    "batch_norm_backward[..., C]",
    "batch_norm[N, C]",
    "batch_norm[N, C, ...]",
    "batch_norm[..., C]",
    "dropout",
    "dropout_backward",
    "dropout_add_layer_norm_forward[p = 0.5]",
    "dropout_add_layer_norm_backward[p = 0.5]",
    "dropout_add_rms_norm_forward[p = 0]",
    "adamw_step[decoupled]",
)
"""The cases whose speed is promised, which ``--quick`` measures and the plot shows."""
