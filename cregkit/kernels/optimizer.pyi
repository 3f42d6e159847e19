import numpy as np
from numpy.typing import NDArray

def l2_penalty(w: NDArray[np.float32], weight_decay: float) -> float: ...
def sum_squares(x: NDArray[np.float32], *, clipvalue: float | None = None) -> float: ...
def l2_gradient(
    w: NDArray[np.float32], weight_decay: float, *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]: ...
def sgd_step(
    w: NDArray[np.float32],
    dw: NDArray[np.float32],
    lr: float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    velocity: NDArray[np.float32] | None = None,
    clipvalue: float | None = None,
    scale: float = 1.0,
    l1: float = 0.0,
    average: NDArray[np.float32] | None = None,
    ema_momentum: float = 0.99,
) -> None: ...
def adamw_step(
    w: NDArray[np.float32],
    dw: NDArray[np.float32],
    m: NDArray[np.float32],
    v: NDArray[np.float32],
    step: int,
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    decoupled: bool = True,
    clipvalue: float | None = None,
    scale: float = 1.0,
    l1: float = 0.0,
    average: NDArray[np.float32] | None = None,
    ema_momentum: float = 0.99,
) -> None: ...
def max_norm(
    w: NDArray[np.float32],
    max_value: float,
    *,
    average: NDArray[np.float32] | None = None,
    ema_momentum: float = 0.99,
) -> None: ...
