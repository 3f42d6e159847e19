import numpy as np
from numpy.typing import NDArray

def ghost_batch_norm_forward(
    x: NDArray[np.float32],
    virtual_batch_size: int,
    gamma: NDArray[np.float32] | None = None,
    beta: NDArray[np.float32] | None = None,
    running_mean: NDArray[np.float32] | None = None,
    running_var: NDArray[np.float32] | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    unbiased: bool = False,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]: ...
def ghost_batch_norm_backward(
    dy: NDArray[np.float32],
    x: NDArray[np.float32],
    virtual_batch_size: int,
    mean: NDArray[np.float64],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32] | None = None,
    *,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
