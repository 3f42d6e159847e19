from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

def layer_norm(
    x: NDArray[_Scalar],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    beta: NDArray[np.float32 | _Scalar] | None = None,
    eps: float = 1e-5,
    *,
    axis: int | tuple[int, ...] = -1,
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
def layer_norm_forward(
    x: NDArray[_Scalar],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    beta: NDArray[np.float32 | _Scalar] | None = None,
    eps: float = 1e-5,
    *,
    axis: int | tuple[int, ...] = -1,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float64], NDArray[np.float64]]: ...
def layer_norm_backward(
    dy: NDArray[_Scalar],
    x: NDArray[_Scalar],
    mean: NDArray[np.float64],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
