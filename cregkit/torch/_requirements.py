"""Import check for PyTorch: an error says how to install it."""

import re

MINIMUM = (2, 4)  # first version with torch.nn.RMSNorm


def check(version: str) -> None:
    """Raise ImportError if ``version`` is older than ``MINIMUM``."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < MINIMUM:
        raise ImportError(
            f"cregkit.torch needs PyTorch {MINIMUM[0]}.{MINIMUM[1]} or newer, got {version}: "
            "pip install --upgrade 'cregkit[torch]'"
        )


try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError("cregkit.torch needs PyTorch, which is not installed: pip install 'cregkit[torch]'") from error

check(torch.__version__)
