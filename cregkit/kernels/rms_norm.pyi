from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

def rms_norm(
    x: NDArray[_Scalar],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    eps: float = 1e-6,
    *,
    axis: int | tuple[int, ...] = -1,
    gain_offset: float = 0.0,
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
def rms_norm_forward(
    x: NDArray[_Scalar],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    eps: float = 1e-6,
    *,
    axis: int | tuple[int, ...] = -1,
    gain_offset: float = 0.0,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float64]]: ...
def rms_norm_backward(
    dy: NDArray[_Scalar],
    x: NDArray[_Scalar],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    gain_offset: float = 0.0,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[np.float32] | None]: ...
