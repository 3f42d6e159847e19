from collections.abc import Callable
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

Merge: TypeAlias = Callable[
    [float, NDArray[np.float64], NDArray[np.float64]], tuple[float, NDArray[np.float64], NDArray[np.float64]]
]

def batch_norm(
    x: NDArray[_Scalar],
    mean: NDArray[np.float32 | _Scalar],
    var: NDArray[np.float32 | _Scalar],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    beta: NDArray[np.float32 | _Scalar] | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
def batch_norm_forward(
    x: NDArray[_Scalar],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    beta: NDArray[np.float32 | _Scalar] | None = None,
    running_mean: NDArray[np.float32 | _Scalar] | None = None,
    running_var: NDArray[np.float32 | _Scalar] | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    unbiased: bool = False,
    channel_axis: int = 1,
    merge: Merge | None = None,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float64], NDArray[np.float64]]: ...
def batch_norm_backward(
    dy: NDArray[_Scalar],
    x: NDArray[_Scalar],
    mean: NDArray[np.float64],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    *,
    channel_axis: int = 1,
    merge: Merge | None = None,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
def batch_norm_inference_backward(
    dy: NDArray[_Scalar],
    x: NDArray[_Scalar],
    mean: NDArray[np.float32 | _Scalar],
    var: NDArray[np.float32 | _Scalar],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
