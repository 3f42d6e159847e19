import numpy as np
from numpy.typing import NDArray

def crop_images(
    x: NDArray[np.float32],
    corners: NDArray[np.int64],
    size: int | tuple[int, int],
    *,
    mode: str = "zero",
    channel_axis: int = 1,
) -> NDArray[np.float32]: ...
def flip_images(
    x: NDArray[np.float32],
    flips: NDArray[np.int64],
    *,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def rotate_images(
    x: NDArray[np.float32], degrees: NDArray[np.float64], fill: float = 0.0, *, channel_axis: int = 1
) -> NDArray[np.float32]: ...
def cutout_images(
    x: NDArray[np.float32],
    boxes: NDArray[np.int64],
    fill: float = 0.0,
    *,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def cutmix_images(
    x: NDArray[np.float32],
    other: NDArray[np.float32],
    boxes: NDArray[np.int64],
    *,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def mixup_images(
    x: NDArray[np.float32],
    other: NDArray[np.float32],
    weight: NDArray[np.float32],
    *,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def jitter_images(
    x: NDArray[np.float32],
    factors: NDArray[np.float32],
    *,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
