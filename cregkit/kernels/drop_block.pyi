from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

def drop_block(
    x: NDArray[_Scalar],
    p: float = 0.1,
    block_size: int = 7,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
def drop_block_backward(
    dy: NDArray[_Scalar],
    p: float = 0.1,
    block_size: int = 7,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[_Scalar] | None = None,
) -> NDArray[_Scalar]: ...
