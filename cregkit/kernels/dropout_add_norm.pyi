from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

def dropout_add_layer_norm_forward(
    x: NDArray[_Scalar],
    residual: NDArray[_Scalar],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    beta: NDArray[np.float32 | _Scalar] | None = None,
    p: float = 0.0,
    eps: float = 1e-5,
    *,
    seed: int | None = None,
    offset: int = 0,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[_Scalar], NDArray[np.float64], NDArray[np.float64]]: ...
def dropout_add_layer_norm_backward(
    dy: NDArray[_Scalar],
    h: NDArray[_Scalar],
    mean: NDArray[np.float64],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    p: float = 0.0,
    *,
    dh: NDArray[_Scalar] | None = None,
    seed: int | None = None,
    offset: int = 0,
) -> tuple[NDArray[_Scalar], NDArray[_Scalar], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
def dropout_add_rms_norm_forward(
    x: NDArray[_Scalar],
    residual: NDArray[_Scalar],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    p: float = 0.0,
    eps: float = 1e-6,
    *,
    gain_offset: float = 0.0,
    seed: int | None = None,
    offset: int = 0,
    out: NDArray[_Scalar] | None = None,
) -> tuple[NDArray[_Scalar], NDArray[_Scalar], NDArray[np.float64]]: ...
def dropout_add_rms_norm_backward(
    dy: NDArray[_Scalar],
    h: NDArray[_Scalar],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32 | _Scalar] | None = None,
    p: float = 0.0,
    *,
    gain_offset: float = 0.0,
    dh: NDArray[_Scalar] | None = None,
    seed: int | None = None,
    offset: int = 0,
) -> tuple[NDArray[_Scalar], NDArray[_Scalar], NDArray[np.float32] | None]: ...
