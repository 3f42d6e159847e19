from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

def group_norm(
    x: NDArray[_Scalar],
    num_groups: int,
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    beta: NDArray[np.float32 | _Scalar] | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
def group_norm_forward(
    x: NDArray[_Scalar],
    num_groups: int,
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    beta: NDArray[np.float32 | _Scalar] | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float64], NDArray[np.float64]]: ...
def group_norm_backward(
    dy: NDArray[_Scalar],
    x: NDArray[_Scalar],
    mean: NDArray[np.float64],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    *,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
def instance_norm(
    x: NDArray[_Scalar],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    beta: NDArray[np.float32 | _Scalar] | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
def instance_norm_forward(
    x: NDArray[_Scalar],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    beta: NDArray[np.float32 | _Scalar] | None = None,
    running_mean: NDArray[np.float32 | _Scalar] | None = None,
    running_var: NDArray[np.float32 | _Scalar] | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float64], NDArray[np.float64]]: ...
def instance_norm_backward(
    dy: NDArray[_Scalar],
    x: NDArray[_Scalar],
    mean: NDArray[np.float64],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    *,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
