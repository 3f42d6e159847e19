from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

def dropout(
    x: NDArray[_Scalar], p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[_Scalar] | None = None
) -> NDArray[_Scalar]: ...
def dropout_backward(
    dy: NDArray[_Scalar], p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[_Scalar] | None = None
) -> NDArray[_Scalar]: ...
def dropout_keep(
    shape: int | tuple[int, ...] | list[int], p: float = 0.5, *, seed: int, offset: int = 0
) -> NDArray[np.bool_]: ...
def spatial_dropout(
    x: NDArray[_Scalar],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
def spatial_dropout_backward(
    dy: NDArray[_Scalar],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
def drop_path(
    x: NDArray[_Scalar],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    mode: Literal["row", "batch"] = "row",
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
def drop_path_backward(
    dy: NDArray[_Scalar],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    mode: Literal["row", "batch"] = "row",
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
def alpha_dropout(
    x: NDArray[_Scalar], p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[_Scalar] | None = None
) -> NDArray[_Scalar]: ...
def alpha_dropout_backward(
    dy: NDArray[_Scalar], p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[_Scalar] | None = None
) -> NDArray[_Scalar]: ...
def feature_alpha_dropout(
    x: NDArray[_Scalar],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
def feature_alpha_dropout_backward(
    dy: NDArray[_Scalar],
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
