"""An optimiser step with all that regularises in it, beside PyTorch's: clipping, AdamW and an average of the weights.

    python bench/bench_optimizer.py            # a minute
    python bench/bench_optimizer.py --quick    # fewer runs, noisier

Both sides clip the norm of all gradients, step AdamW and move an exponential moving average: cregkit by the fused
kernels of ``cregkit.train.AdamW(network, global_clipnorm=..., ema_momentum=...)``, PyTorch by ``clip_grad_norm_``, its
fused ``AdamW`` and ``AveragedModel``. They run in turn (A, B, A, B ...) in one process. The ratio of a run is that of
the lower quartiles, and the table has the median of the runs with the smallest and the largest. The results are
compared first. A copy of 40 bytes per parameter, those that cregkit moves, shows the limit of memory: the last column
is its time over cregkit's. PyTorch moves 52 bytes, so with arrays beyond the caches, no step can be more than 1.3 times
as fast as PyTorch at the same rate.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from optimizer_report import HEADERS, cells
from record import add_option, circumstances, machine, store

import cregkit
from cregkit.benchmark.roofline import copies
from cregkit.benchmark.timing import Contestant, measure
from cregkit.layers import Layer
from cregkit.train import AdamW

SIZES = ((10, 1_000_000), (1, 10_000_000), (100, 10_000))
"""Numbers of arrays, and the elements of each."""
CLIPNORM, MOMENTUM = 1.0, 0.999
OUR_BYTES = 40
"""Per parameter: the gradient for its norm; gradient, weight, moments, average; all but the gradient written."""


class Weights(Layer):
    """Arrays to train, with gradients that stay the same."""

    _parameters = _decayed = ()

    def __init__(self, count: int, size: int) -> None:
        rng = np.random.default_rng(0)
        for i in range(count):
            setattr(self, f"w{i}", rng.standard_normal(size, dtype=np.float32))
            setattr(self, f"dw{i}", rng.standard_normal(size, dtype=np.float32))
        self._trainable = tuple((f"w{i}", f"dw{i}", True) for i in range(count))  # type: ignore[misc]


class Module(torch.nn.Module):
    """Copies of the same arrays."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(torch.from_numpy(p.value.copy()) for p in weights.parameters())
        for theirs, ours in zip(self.weights, weights.parameters(), strict=True):
            theirs.grad = torch.from_numpy(np.array(ours.grad))


def pytorch_step(module: torch.nn.Module) -> tuple[Callable[[], None], torch.nn.Module]:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    average = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(MOMENTUM)
    )

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIPNORM)
        optimizer.step()
        average.update_parameters(module)

    return step, average


def check(weights: Weights, optimizer: AdamW, module: torch.nn.Module, average: Any) -> None:
    """Compare the weights and the averages of both sides, which took the same number of steps."""
    pairs = zip(weights.parameters(), module.parameters(), average.module.parameters(), strict=True)
    for ours, theirs, their_average in pairs:
        for got, wanted in ((ours.value, theirs), (optimizer.averages[ours.name], their_average)):
            np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=0, atol=2e-6)


def ratios(count: int, size: int, runs: int, seconds: float) -> tuple[list[float], float, float]:
    """Return PyTorch's time over ours in each run, our time, and memcpy's time over ours."""
    weights = Weights(count, size)
    module = Module(weights)
    optimizer = AdamW(weights, lr=1e-3, weight_decay=0.01, global_clipnorm=CLIPNORM, ema_momentum=MOMENTUM)
    step, average = pytorch_step(module)
    for _ in range(3):
        optimizer.step()
        step()
    check(weights, optimizer, module, average)
    n_bytes = OUR_BYTES * count * size
    contestants = {"ours": Contestant(optimizer.step), "torch": Contestant(step)}
    copied = copies(n_bytes, cregkit.get_num_threads())
    contestants["copy"] = copied.get("memcpy", copied["numpy"])
    found = [measure(contestants, seconds) for _ in range(runs)]
    return (
        [of["torch"].quartile / of["ours"].quartile for of in found],
        median(of["ours"].quartile for of in found),
        median(of["copy"].quartile / of["ours"].quartile for of in found),
    )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    add_option(parser)
    arguments = parser.parse_args()
    runs, seconds = (3, 1.0) if arguments.quick else (7, 3.0)
    torch.set_num_threads(cregkit.get_num_threads())
    before, rows = circumstances(), []
    print(f"{machine(before)}\n\n| {' | '.join(HEADERS)} |\n{'|---' * len(HEADERS)}|")
    for count, size in SIZES:
        found, ours, share = ratios(count, size, runs, seconds)
        rows.append({"arrays": f"{count} x {size:,}", "ratios": found, "ms": 1e3 * ours, "of_memcpy": share})
        print(f"| {' | '.join(cells(rows[-1]))} |", flush=True)
    if arguments.record:
        store(arguments.record, "optimizer", before, rows)


if __name__ == "__main__":
    main()
