from typing import Literal

import numpy as np
from numpy.typing import NDArray

def dropout(
    x: NDArray[np.float32], p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]: ...
def dropout_backward(
    dy: NDArray[np.float32], p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]: ...
def dropout_keep(
    shape: int | tuple[int, ...] | list[int], p: float = 0.5, *, seed: int, offset: int = 0
) -> NDArray[np.bool_]: ...
def spatial_dropout(
    x: NDArray[np.float32],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def spatial_dropout_backward(
    dy: NDArray[np.float32],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def drop_path(
    x: NDArray[np.float32],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    mode: Literal["row", "batch"] = "row",
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def drop_path_backward(
    dy: NDArray[np.float32],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    mode: Literal["row", "batch"] = "row",
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def alpha_dropout(
    x: NDArray[np.float32], p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]: ...
def alpha_dropout_backward(
    dy: NDArray[np.float32], p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]: ...
def feature_alpha_dropout(
    x: NDArray[np.float32],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def feature_alpha_dropout_backward(
    dy: NDArray[np.float32],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
