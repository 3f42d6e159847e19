import numpy as np
from numpy.typing import NDArray

def drop_block(
    x: NDArray[np.float32],
    p: float = 0.1,
    block_size: int = 7,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def drop_block_backward(
    dy: NDArray[np.float32],
    p: float = 0.1,
    block_size: int = 7,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
