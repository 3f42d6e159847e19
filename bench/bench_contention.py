"""Layer norm while other processes use the CPUs: cregkit and PyTorch, on all threads and on one.

    python bench/bench_contention.py                              # every load and shape: two hours
    python bench/bench_contention.py --only-cregkit               # without PyTorch's columns: 45 minutes
    python bench/bench_contention.py --windows 3 --seconds 0.2    # five minutes, noisier
    python bench/bench_contention.py --loads idle,busy-1 --shapes tuned

Under each load, the contestants run in turn (A, B, C, A, B, C ...), each for a window of time. A row shows the time of
a cregkit call on one thread (mean and 99th percentile of the median window), and the worst window of every contestant
as multiples of these, including that of one thread itself. There are two lists of shapes: csrc/thread_choice.h was
tuned on the first one only.

If one call in a hundred is preempted for a time slice, the 99th percentile of one thread varies by a factor of 30
between windows: compare with its worst window.

"in PyTorch" is cregkit in PyTorch's process: before every timed call, PyTorch computes an untimed GELU on all threads.
Its multiples refer to one thread in the same setting.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import add_option, circumstances, machine, store

import cregkit
from cregkit.verify.shapes import TIMED_ROWS

Floats = NDArray[np.float32]

SHAPES = {"tuned": TIMED_ROWS.quick[1:], "new": ((900, 640), (3000, 512))}

BUSY = """
import os
print("computes", flush=True)
while os.getppid() == {parent}:
    pass
"""
TORCH = """
import os, torch
torch.set_num_threads({threads})
model = torch.nn.Sequential(torch.nn.Linear(768, 768), torch.nn.ReLU(), torch.nn.LayerNorm(768))
x = torch.randn(512, 768)
model(x).sum().backward()
print("computes", flush=True)
while os.getppid() == {parent}:
    model(x).sum().backward()
"""
CREGKIT = """
import os, numpy as np, cregkit
cregkit.set_num_threads({threads})
x = np.random.default_rng(0).standard_normal((600, 800), dtype=np.float32)
print("computes", flush=True)
while os.getppid() == {parent}:
    cregkit.layer_norm(x)
"""
LOADS = {
    "idle": [],
    **{f"busy-{n}": [BUSY] * n for n in (1, 2, 4)},
    **{f"pytorch-{n}": [TORCH] * n for n in (1, 2)},
    **{f"cregkit-{n}": [CREGKIT] * n for n in (1, 2)},
}

OURS, OURS_ALONE = "cregkit", "1 thread"
BETWEEN, BETWEEN_ALONE = "in PyTorch", "in PyTorch, 1 thread"
THEIRS, THEIRS_ALONE = "PyTorch", "PyTorch, 1 thread"
BASES = {
    OURS: OURS_ALONE,
    OURS_ALONE: OURS_ALONE,
    BETWEEN: BETWEEN_ALONE,
    BETWEEN_ALONE: BETWEEN_ALONE,
    THEIRS: OURS_ALONE,
    THEIRS_ALONE: OURS_ALONE,
}
"""The contestant to whose time each contestant's time is relative."""


@contextmanager
def neighbours(load: str, threads: int) -> Iterator[None]:
    """Run the processes of a load inside the block; start it when all of them compute."""
    codes = [code.format(threads=threads, parent=os.getpid()) for code in LOADS[load]]
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for code in codes]
    try:
        for process in processes:
            if process.stdout is None or process.stdout.readline() != b"computes\n":
                raise RuntimeError(f"a process of the load {load} did not start computing")
        yield
        if any(process.poll() is not None for process in processes):
            raise RuntimeError(f"a process of the load {load} ended before the measurement")
    finally:
        for process in processes:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Contestant:
    """A timed call, a function that sets its number of threads, and an untimed call before each."""

    call: Callable[[], object]
    start: Callable[[], object]
    before: Callable[[], object] | None = None

    def window(self, seconds: float) -> list[float]:
        """Call repeatedly for ``seconds``; return the time of each call."""
        self.start()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            if self.before is not None:
                self.before()
            began = time.perf_counter()
            self.call()
            times.append(time.perf_counter() - began)
        return times


def contestants(shape: tuple[int, int], backward: bool, threads: int, torch: Any) -> dict[str, Contestant]:
    """Return the contestants for layer norm of one shape, or for its backward."""
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    _, mean, rstd = cregkit.layer_norm_forward(x)
    y = np.empty_like(x)

    def ours() -> object:
        return cregkit.layer_norm_backward(dy, x, mean, rstd) if backward else cregkit.layer_norm(x, out=y)

    found = {
        OURS: Contestant(ours, partial(cregkit.set_num_threads, threads)),
        OURS_ALONE: Contestant(ours, partial(cregkit.set_num_threads, 1)),
    }
    return found if torch is None else found | beside_torch(ours, x, dy, backward, threads, torch)


def beside_torch(
    ours: Callable[[], object], x: Floats, dy: Floats, backward: bool, threads: int, torch: Any
) -> dict[str, Contestant]:
    """Return the contestants that need PyTorch: its layer norm, and cregkit's between PyTorch ops."""
    x_t, dy_t, features = torch.from_numpy(x), torch.from_numpy(dy), x.shape[1:]
    _, mean, rstd = torch.native_layer_norm(x_t, features, None, None, 1e-5)

    def theirs() -> object:
        if not backward:
            return torch.nn.functional.layer_norm(x_t, features)
        only_dx = [True, False, False]
        return torch.ops.aten.native_layer_norm_backward(dy_t, x_t, features, mean, rstd, None, None, only_dx)

    def set_threads(of_cregkit: int, of_torch: int) -> Callable[[], object]:
        return lambda: (cregkit.set_num_threads(of_cregkit), torch.set_num_threads(of_torch))

    def gelu() -> object:
        return torch.nn.functional.gelu(x_t)

    return {
        BETWEEN: Contestant(ours, set_threads(threads, threads), gelu),
        BETWEEN_ALONE: Contestant(ours, set_threads(1, threads), gelu),
        THEIRS: Contestant(theirs, set_threads(1, threads)),
        THEIRS_ALONE: Contestant(theirs, set_threads(1, 1)),
    }


@dataclass(frozen=True)
class Windows:
    """Seconds per call in each window of a contestant: mean and 99th percentile."""

    means: list[float]
    percentiles: list[float]

    @classmethod
    def of(cls, windows: Sequence[Sequence[float]]) -> Windows:
        """Summarise windows of times."""
        return cls(
            [statistics.fmean(times) for times in windows], [float(np.percentile(times, 99)) for times in windows]
        )


def measure(entrants: dict[str, Contestant], windows: int, seconds: float) -> dict[str, Windows]:
    """Run all contestants in turn; restore the number of threads at the end."""
    before = cregkit.get_num_threads()
    times: dict[str, list[list[float]]] = {name: [] for name in entrants}
    for _ in range(windows):
        for name, contestant in entrants.items():
            times[name].append(contestant.window(seconds))
    cregkit.set_num_threads(before)
    return {name: Windows.of(found) for name, found in times.items()}


Multiples = dict[str, tuple[float, float]]


def worst_windows(measured: dict[str, Windows]) -> Multiples:
    """Return mean and 99th percentile of each contestant's worst window, relative to its base's median window."""
    return {
        name: (
            max(measured[name].means) / statistics.median(measured[base].means),
            max(measured[name].percentiles) / statistics.median(measured[base].percentiles),
        )
        for name, base in BASES.items()
        if name in measured
    }


def measure_load(
    lists: Sequence[str], threads: int, torch: Any, windows: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Measure every shape, print its row, and yield it: microseconds on one thread, and the multiples."""
    for name, backward in itertools.product(lists, (False, True)):
        for shape in SHAPES[name]:
            before = cregkit.show_config()["thread_choice"]
            measured = measure(contestants(shape, backward, threads, torch), windows, seconds)
            after = cregkit.show_config()["thread_choice"]
            loops, fewer = (after[key] - before[key] for key in ("loops", "fewer"))
            alone, worst = measured[OURS_ALONE], worst_windows(measured)
            microseconds = [f"{statistics.median(of) * 1e6:8.0f}" for of in (alone.means, alone.percentiles)]
            print(
                f"{name:6}{shape!s:13}{'backward' if backward else 'forward':9}{''.join(microseconds)}",
                *(f"{mean:10.2f} /{percentile:7.2f}" for mean, percentile in worst.values()),
                f"{fewer / max(1, loops):8.0%}",
                flush=True,
            )
            yield {
                "shapes": name,
                "shape": shape,
                "op": "backward" if backward else "forward",
                "us": [1e6 * statistics.median(of) for of in (alone.means, alone.percentiles)],
                "worst": worst,
                "fewer": fewer / max(1, loops),
            }


def print_header(load: str, torch: Any) -> None:
    shown = [name for name in BASES if torch is not None or name in (OURS, OURS_ALONE)]
    print(f"\nload {load:23}{'us':>8}{'99 %':>8}", *(f"{name:>19}" for name in shown), "   fewer")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default=",".join(LOADS), help=f"some of {', '.join(LOADS)} (default: all)")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="tuned, new or tuned,new (default)")
    parser.add_argument("--windows", type=int, default=10, help="of each contestant (default: 10)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a window (default: 2)")
    parser.add_argument("--only-cregkit", action="store_true", help="omit the contestants that need PyTorch")
    add_option(parser)
    parsed = parser.parse_args(arguments)
    parsed.loads, parsed.shapes = parsed.loads.split(","), parsed.shapes.split(",")
    for option, given, known in (("--loads", parsed.loads, LOADS), ("--shapes", parsed.shapes, SHAPES)):
        for one in given:
            if one not in known:
                parser.error(f"{option} takes {', '.join(known)}, got {one!r}")
    if parsed.windows < 1 or not 0 < parsed.seconds < math.inf:
        parser.error(f"--windows and --seconds must be positive, got {parsed.windows} and {parsed.seconds}")
    return parsed


def main() -> None:
    settings = parse()
    torch, loads = None, settings.loads
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: its columns and loads are omitted")
        loads = [load for load in loads if TORCH not in LOADS[load]]
    elif not settings.only_cregkit:
        import torch

    threads = max(2, cregkit.get_num_threads())
    before = {**circumstances(), "threads": threads}
    print(f"{machine(before)}; {settings.windows} windows of {settings.seconds:g} s")
    print("microseconds of a call on one thread; worst windows, mean / 99th percentile, as multiples of that")
    rows: dict[str, list[dict[str, Any]]] = {}
    for load in loads:
        print_header(load, torch)
        with neighbours(load, threads):
            rows[load] = list(measure_load(settings.shapes, threads, torch, settings.windows, settings.seconds))
    worst: list[Multiples] = [row["worst"] for of_load in rows.values() for row in of_load]
    for name in worst[0] if worst else ():
        means, percentiles = zip(*(row[name] for row in worst), strict=True)
        print(f"\n{name}: at most {max(means):.2f} / {max(percentiles):.2f}", end="")
    print()
    if settings.record:
        store(
            settings.record,
            "contention",
            before,
            {"windows": settings.windows, "seconds": settings.seconds, "loads": rows},
        )


if __name__ == "__main__":
    main()
