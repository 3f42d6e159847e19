from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

def ghost_batch_norm_forward(
    x: NDArray[_Scalar],
    virtual_batch_size: int,
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    beta: NDArray[np.float32 | _Scalar] | None = None,
    running_mean: NDArray[np.float32 | _Scalar] | None = None,
    running_var: NDArray[np.float32 | _Scalar] | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    unbiased: bool = False,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float64], NDArray[np.float64]]: ...
def ghost_batch_norm_backward(
    dy: NDArray[_Scalar],
    x: NDArray[_Scalar],
    virtual_batch_size: int,
    mean: NDArray[np.float64],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    *,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
