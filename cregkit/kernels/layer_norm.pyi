import numpy as np
from numpy.typing import NDArray

def layer_norm(
    x: NDArray[np.float32],
    gamma: NDArray[np.float32] | None = None,
    beta: NDArray[np.float32] | None = None,
    eps: float = 1e-5,
    *,
    axis: int | tuple[int, ...] = -1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def layer_norm_forward(
    x: NDArray[np.float32],
    gamma: NDArray[np.float32] | None = None,
    beta: NDArray[np.float32] | None = None,
    eps: float = 1e-5,
    *,
    axis: int | tuple[int, ...] = -1,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]: ...
def layer_norm_backward(
    dy: NDArray[np.float32],
    x: NDArray[np.float32],
    mean: NDArray[np.float64],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32] | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
