import numpy as np
from numpy.typing import NDArray

def rms_norm(
    x: NDArray[np.float32],
    gamma: NDArray[np.float32] | None = None,
    eps: float = 1e-6,
    *,
    axis: int | tuple[int, ...] = -1,
    gain_offset: float = 0.0,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def rms_norm_forward(
    x: NDArray[np.float32],
    gamma: NDArray[np.float32] | None = None,
    eps: float = 1e-6,
    *,
    axis: int | tuple[int, ...] = -1,
    gain_offset: float = 0.0,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]: ...
def rms_norm_backward(
    dy: NDArray[np.float32],
    x: NDArray[np.float32],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32] | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    gain_offset: float = 0.0,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]: ...
