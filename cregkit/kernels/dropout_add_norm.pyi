import numpy as np
from numpy.typing import NDArray

def dropout_add_layer_norm_forward(
    x: NDArray[np.float32],
    residual: NDArray[np.float32],
    gamma: NDArray[np.float32] | None = None,
    beta: NDArray[np.float32] | None = None,
    p: float = 0.0,
    eps: float = 1e-5,
    *,
    seed: int | None = None,
    offset: int = 0,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]: ...
def dropout_add_layer_norm_backward(
    dy: NDArray[np.float32],
    h: NDArray[np.float32],
    mean: NDArray[np.float64],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32] | None = None,
    p: float = 0.0,
    *,
    dh: NDArray[np.float32] | None = None,
    seed: int | None = None,
    offset: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
def dropout_add_rms_norm_forward(
    x: NDArray[np.float32],
    residual: NDArray[np.float32],
    gamma: NDArray[np.float32] | None = None,
    p: float = 0.0,
    eps: float = 1e-6,
    *,
    gain_offset: float = 0.0,
    seed: int | None = None,
    offset: int = 0,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]: ...
def dropout_add_rms_norm_backward(
    dy: NDArray[np.float32],
    h: NDArray[np.float32],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32] | None = None,
    p: float = 0.0,
    *,
    gain_offset: float = 0.0,
    dh: NDArray[np.float32] | None = None,
    seed: int | None = None,
    offset: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]: ...
