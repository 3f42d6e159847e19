import numpy as np
from numpy.typing import NDArray

def derive_seed(seed: int, *numbers: int) -> int: ...
def sample_uniform(index: NDArray[np.int64], n: int, *, seed: int) -> NDArray[np.float64]: ...
def gaussian_noise(
    x: NDArray[np.float32],
    sigma: NDArray[np.float32],
    index: NDArray[np.int64],
    *,
    seed: int,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
