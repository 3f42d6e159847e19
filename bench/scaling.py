"""How every op scales with the number of threads, beside memcpy and PyTorch; a model predicts more threads.

    python bench/scaling.py --record scaling.json                    # every op on 1, 2, 4, ... all threads
    python bench/scaling.py --quick --ops layer_norm,dropout         # these ops, noisier
    numactl --interleave=all python bench/scaling.py --quick         # memory of all sockets
    python bench/scaling.py --predict                                # the table of SCALING.md

Each op is timed at three sizes: small, in the caches of one core complex, beyond them. A full run adds the calls of the
model. Strong scaling keeps the shape; weak scaling multiplies its first axis by the number of threads. In a cell, all
contestants on all numbers of threads run in turn (A, B, C, A, B, C ...); times are lower quartiles. "memcpy" is the
fastest copy of as many bytes on up to as many threads.

Run it on an idle machine: a loop waits for the thread whose core another process uses. The inputs of weak scaling grow
with the threads, and so does the time to make them. Ctrl-C keeps what is measured.

A speed-up is the work per second relative to one thread. The columns after those of the numbers of threads are of all
threads: efficiency, the speed-up as a fraction of memcpy's, the speed-ups of memcpy and PyTorch. "best" is the fewest
threads within 5 % of the largest speed-up, with the elements of each. Loops use as many threads as their sizes allow.
"""

from __future__ import annotations

import argparse
import ctypes
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from record import add_option, circumstances, store

import cregkit
from cregkit import functional
from cregkit.benchmark import report, suite
from cregkit.benchmark.peers import Torch, complaint
from cregkit.benchmark.roofline import copies_between
from cregkit.benchmark.timing import Contestant, measure
from cregkit.kernels._cpu import memory_bytes
from cregkit.kernels._threads import exact_threads
from cregkit.verify import cases
from cregkit.verify.shapes import Shape

OURS, COPY, TORCH = "cregkit", "memcpy", "torch"
STRONG, WEAK = "strong", "weak"
OPS = sorted({case.op for case in cases.FLOAT32_CASES})
SIZES = ("small", "in cache", "beyond cache")
MEMORY_FACTOR = 8  # bytes needed to prepare a cell, per byte that the op moves

# ---- measurement ----


@dataclass(frozen=True)
class Cell:
    """Seconds per call of each contestant, for each number of threads."""

    op: str
    size: str
    shape: Shape
    scaling: str
    threads: Sequence[int]
    seconds: Mapping[str, Sequence[float]]

    def speedups(self, name: str = OURS) -> list[float]:
        """Return the work per second relative to one thread."""
        times = self.seconds[name]
        return [times[0] / t * (n if self.scaling == WEAK else 1) for n, t in zip(self.threads, times, strict=True)]

    def row(self) -> str:
        """Return the line of the table."""
        ours, copied = self.speedups(), self.speedups(COPY)[-1]
        best = next(n for n, speedup in zip(self.threads, ours, strict=True) if speedup >= 0.95 * max(ours))
        each = math.prod(self.shape) // (best if self.scaling == STRONG else 1)
        torch = f"{self.speedups(TORCH)[-1]:.2f}" if TORCH in self.seconds else "-"
        numbers = "".join(f"{speedup:6.2f}" for speedup in ours[1:])
        return (
            f"{self.op:44.44}{'x'.join(map(str, self.shape)):>17} {self.scaling:6}{1e6 * self.seconds[OURS][0]:10.1f}"
            f"{numbers}{ours[-1] / self.threads[-1]:7.0%}{ours[-1] / copied:8.0%}{copied:7.2f}{torch:>7}"
            f"{best:5} x {each}"
        )


def header(threads: Sequence[int]) -> str:
    numbers = "".join(f"{n:6}" for n in threads[1:])
    return f"{'op':44}{'shape':>17} {'':6}{'us on 1':>10}{numbers} effic. of copy memcpy  torch  best"


Calls = dict[str, Callable[[], object]]


def calls_of(case: cases.Case, shape: Shape, torch: Torch | None, *, check: bool) -> Calls:
    """Return the op, the copies and PyTorch's op. If the op is wrong, raise; if PyTorch's is, leave it out."""
    arguments = case.arguments(shape, np.random.default_rng(shape), 0.0)
    own = suite.ours(case, arguments, 1)
    calls: Calls = {OURS: own.get(suite.OURS_OUT, own[suite.OURS]).call}
    x = np.ones(max(1, case.bytes_per_element * math.prod(shape) // 8), np.float32)
    copies = copies_between(x, np.full_like(x, 2.0), 1)
    calls |= {f"{COPY} {name}": copy.call for name, copy in copies.items() if copy.pool == "openmp"}
    prepared = torch.prepare(case, arguments) if torch else None
    if check:
        reference = cases.reference(case, arguments)
        errors = cases.errors(case, arguments, cases.run(case, functional, arguments), reference)
        if not max(errors.values()) <= 1.0:
            raise RuntimeError(f"{case.name} {shape} is wrong by {errors} tolerances: nothing was timed")
        if prepared and complaint(case, arguments, prepared, reference):
            prepared = None
    return calls | {TORCH: prepared.call} if prepared else calls


def times_of(calls: Sequence[Calls], threads: Sequence[int], torch: Torch | None, budget: float) -> dict[str, Any]:
    """Time the calls for each number of threads, in turn; return seconds by contestant, of the copies the fastest."""
    block = ExitStack()

    def use(n: int) -> None:
        block.close()
        block.enter_context(exact_threads(n))
        if torch:
            torch.module.set_num_threads(n)

    runs = [(n, name, call) for n, of_n in zip(threads, calls, strict=True) for name, call in of_n.items()]
    with block:
        found = measure({f"{name} {n}": Contestant(call, setup=partial(use, n)) for n, name, call in runs}, budget)
    times: dict[tuple[str, int], float] = defaultdict(lambda: math.inf)
    for n, name, _ in runs:
        times[name.split()[0], n] = min(times[name.split()[0], n], found[f"{name} {n}"].quartile)
    return {name: [times[name, n] for n in threads] for name in (OURS, COPY, TORCH) if (name, 1) in times}


def measure_shape(
    case: cases.Case, size: str, shape: Shape, threads: Sequence[int], torch: Torch | None, budget: float
) -> Iterator[Cell]:
    """Measure strong scaling, and weak scaling if the arrays fit in half of the memory."""
    base = calls_of(case, shape, torch, check=True)
    beside = torch if TORCH in base else None
    yield Cell(case.name, size, shape, STRONG, threads, times_of([base] * len(threads), threads, beside, budget))
    needed = MEMORY_FACTOR * case.bytes_per_element * math.prod(shape) * sum(threads)
    if size in SIZES and needed <= memory_bytes() // 2:
        grown = [calls_of(case, (shape[0] * n, *shape[1:]), beside, check=False) for n in threads[1:]]
        yield Cell(case.name, size, shape, WEAK, threads, times_of([base, *grown], threads, beside, budget))


def loop_costs(threads: Sequence[int], budget: float) -> dict[str, float]:
    """Return the seconds of an empty parallel loop of libgomp, and of two, the first on half as many threads."""
    try:
        loop, nothing = ctypes.CDLL("libgomp.so.1").GOMP_parallel, ctypes.CDLL(None).free
    except OSError:
        return {}

    def run(*numbers: int) -> None:
        for n in numbers:
            loop(nothing, None, n, 0)

    kinds = [(n,) for n in threads] + [(n // 2, n) for n in threads[1:]]
    found = measure({" + ".join(map(str, kind)): Contestant(partial(run, *kind)) for kind in kinds}, budget)
    return {name: times.quartile for name, times in found.items()}


def machine(torch: Torch | None) -> dict[str, Any]:
    """Return the machine with its caches and NUMA nodes."""
    system = Path("/sys/devices/system")
    parts = {
        tuple((folder / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list"))
        for folder in system.glob("cpu/cpu[0-9]*/cache/index*")
        if (folder / "size").exists()
    }
    caches = Counter(f"L{level} {size}" for level, kind, size, _ in sorted(parts) if kind != "Instruction")
    nodes = len(list(system.glob("node/node[0-9]*")))
    return {**report.machine([torch] if torch else []), "caches": caches, "numa_nodes": nodes}


# ---- the model: SCALING.md ----

ONE, INTERLEAVED, OWN = "of one socket", "interleaved", "of each thread's socket"
ELEMENTS_PER_THREAD = 32 * 1024  # of cregkit/kernels/_threads.pyx


class Server(NamedTuple):
    """A server of two sockets, in seconds and bytes per second; SCALING.md tells where the figures come from."""

    cores: int = 32
    socket: float = 437e9
    link: float = 133e9  # in each direction
    loop: float = 0.1e-6
    per_thread: float = 0.3e-6
    share: float = 0.14e-6

    def bandwidth(self, sockets: int, memory: str) -> float:
        """Return the bandwidth of the memory for threads spread evenly over sockets; half of the bytes are written."""
        if sockets == 1 or memory == ONE:
            return self.socket
        return min(2 * self.socket, 4 * self.link if memory == INTERLEAVED else math.inf)


SERVER = Server()


class Work(NamedTuple):
    """A call: bytes to and from memory per element, seconds on one thread, tasks, loops, seconds that stay serial."""

    op: str
    shape: Shape
    n_bytes: int
    seconds: float
    tasks: int
    loops: int = 1
    serial: float = 0.0


WORKS = (
    Work("layer_norm", (4096, 1024), 8, 0.57e-3, 128),
    Work("layer_norm", (65536, 1024), 8, 14.0e-3, 512),
    Work("layer_norm_backward", (65536, 1024), 12, 28.6e-3, 1024, serial=178e-6),
    Work("dropout", (16384, 1024), 8, 4.6e-3, 1024),
    Work("batch_norm_forward[N, C, ...]", (64, 256, 56, 56), 8, 14.5e-3, 256),
    Work("batch_norm_forward[N, C]", (65536, 1024), 12, 27.6e-3, 1024, loops=2, serial=172e-6),
)


def predicted(work: Work, threads: int, sockets: int = 1, memory: str = OWN, server: Server = SERVER) -> float:
    """Return the seconds of a call."""
    elements = math.prod(work.shape)
    used = max(1, min(threads, work.tasks, elements // ELEMENTS_PER_THREAD))
    moving = elements * work.n_bytes / server.bandwidth(sockets, memory)
    busiest = (work.seconds - work.serial) * math.ceil(work.tasks / used) / work.tasks
    loops = work.loops * (server.loop + (server.per_thread + server.share) * (used - 2)) if used > 1 else 0.0
    return max(moving, busiest) + work.serial + loops


def print_predictions() -> None:
    counts = (2, 4, 8, 16, 32, 64)
    print(f"| op | sockets | memory | {' | '.join(map(str, counts))} |\n|---|---|---|{'---:|' * len(counts)}")
    for work in WORKS:
        for sockets, memory in ((1, ONE), (2, ONE), (2, INTERLEAVED), (2, OWN)):
            shown = [n for n in counts if n <= sockets * SERVER.cores]
            speedups = [predicted(work, 1) / predicted(work, n, sockets, memory) for n in shown]
            cells = [f"{speedup:.1f}" for speedup in speedups] + ["-"] * (len(counts) - len(shown))
            print(f"| {work.op} {work.shape} | {sockets} | {memory} | {' | '.join(cells)} |")


# ---- the command ----


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    most = cregkit.get_num_threads()
    default = ",".join(map(str, sorted({1 << i for i in range(most.bit_length())} | {most})))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", default=",".join(OPS), metavar="NAMES", help="some ops, such as layer_norm,dropout")
    parser.add_argument("--threads", default=default, metavar="N,N", help=f"besides 1 (default: {default})")
    parser.add_argument("--seconds", type=float, help="to measure a cell (default: 2; with --quick 0.1)")
    parser.add_argument("--quick", action="store_true", help="the ops whose speed is promised, with few samples")
    parser.add_argument("--predict", action="store_true", help="print the table of SCALING.md instead")
    add_option(parser)
    parsed = parser.parse_args(arguments)
    parsed.ops, numbers = parsed.ops.split(","), parsed.threads.split(",")
    if unknown := set(parsed.ops) - set(OPS):
        parser.error(f"argument --ops: must be some of {', '.join(OPS)}, got {', '.join(sorted(unknown))}")
    if not all(n.isdecimal() and int(n) > 0 for n in numbers):
        parser.error(f"argument --threads: must be whole numbers of at least 1, got {parsed.threads!r}")
    parsed.threads = sorted({1, *map(int, numbers)})
    parsed.seconds = parsed.seconds or (0.1 if parsed.quick else 2.0)
    return parsed


def plan(ops: Sequence[str], quick: bool) -> Iterator[tuple[cases.Case, str, Shape]]:
    """Yield what is measured: three sizes of each case, and the calls of the model."""
    for case in cases.FLOAT32_CASES:
        if case.op not in ops or (quick and case.name not in suite.PROMISED):
            continue
        yield from ((case, size, shape) for size, shape in zip(SIZES, case.timed.quick, strict=True))
        if not quick:
            yield from ((case, "model", work.shape) for work in WORKS if work.op == case.name)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parse(arguments)
    if asked.predict:
        print_predictions()
        return
    torch = Torch(1) if Torch.available() else None
    before, about, loops = circumstances(), machine(torch), loop_costs(asked.threads, asked.seconds)
    caches = ", ".join(f"{count} x {cache}" for cache, count in about["caches"].items())
    print(
        f"{about['cpu']}, {about['cores']} cores, {caches}, {about['numa_nodes']} NUMA nodes, load {about['load']:.1f}"
    )
    print("an empty parallel loop, us:", ", ".join(f"{name}: {1e6 * seconds:.2f}" for name, seconds in loops.items()))
    print(header(asked.threads))
    cells: list[Cell] = []
    try:
        for case, size, shape in plan(asked.ops, asked.quick):
            for cell in measure_shape(case, size, shape, asked.threads, torch, asked.seconds):
                print(cell.row(), flush=True)
                cells.append(cell)
    finally:
        if asked.record and cells:
            server = {name: about[name] for name in ("cores", "caches", "numa_nodes")}
            figures = {**server, "loops": loops, "cells": [asdict(cell) for cell in cells]}
            store(asked.record, "scaling", before, figures)


if __name__ == "__main__":
    main()
