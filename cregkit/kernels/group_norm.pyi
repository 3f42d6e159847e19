import numpy as np
from numpy.typing import NDArray

def group_norm(
    x: NDArray[np.float32],
    num_groups: int,
    gamma: NDArray[np.float32] | None = None,
    beta: NDArray[np.float32] | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def group_norm_forward(
    x: NDArray[np.float32],
    num_groups: int,
    gamma: NDArray[np.float32] | None = None,
    beta: NDArray[np.float32] | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]: ...
def group_norm_backward(
    dy: NDArray[np.float32],
    x: NDArray[np.float32],
    mean: NDArray[np.float64],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32] | None = None,
    *,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
def instance_norm(
    x: NDArray[np.float32],
    gamma: NDArray[np.float32] | None = None,
    beta: NDArray[np.float32] | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def instance_norm_forward(
    x: NDArray[np.float32],
    gamma: NDArray[np.float32] | None = None,
    beta: NDArray[np.float32] | None = None,
    running_mean: NDArray[np.float32] | None = None,
    running_var: NDArray[np.float32] | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]: ...
def instance_norm_backward(
    dy: NDArray[np.float32],
    x: NDArray[np.float32],
    mean: NDArray[np.float64],
    rstd: NDArray[np.float64],
    gamma: NDArray[np.float32] | None = None,
    *,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
