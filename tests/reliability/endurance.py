"""Makes very many calls and measures how much the process grows.

``python tests/reliability/endurance.py CALLS REFUSED LARGE`` makes that many right, refused and large calls. It ends
with 1 if the process grew. test_resources.py makes fewer calls than soak.py.
"""

from __future__ import annotations

import gc
import itertools
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from support import OPS, small_arguments

import cregkit
from cregkit import functional

Call = Callable[[], Any]


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def growth(calls: Sequence[Call], n: int) -> int:
    """Growth in bytes over ``n`` calls, after ``n // 10`` calls that fill caches and pools."""
    for call in itertools.islice(itertools.cycle(calls), max(len(calls), n // 10)):
        call()
    gc.collect()
    before = resident_bytes()
    for call in itertools.islice(itertools.cycle(calls), n):
        call()
    gc.collect()
    return resident_bytes() - before


def small_calls() -> list[Call]:
    """Every op on small arrays of every type."""

    def call(op: str, dtype: Any) -> Call:
        arguments, function = small_arguments(op, dtype), getattr(functional, op)
        return lambda: function(**arguments)

    return [call(op, dtype) for op, case in OPS.items() for dtype in case.dtypes]


def refused_calls() -> list[Call]:
    """Every op with each array argument in turn of a wrong dtype, layout or type."""

    def call(op: str, name: str, bad: Any) -> Call:
        arguments, function = small_arguments(op), getattr(functional, op)
        arguments[name] = bad(arguments[name])

        def refused() -> None:
            try:
                function(**arguments)
            except (TypeError, ValueError):
                return
            raise AssertionError(f"{op} took a bad {name}")

        return refused

    given = {op: small_arguments(op) for op in OPS}
    arrays = [(op, name) for op in OPS for name, value in given[op].items() if isinstance(value, np.ndarray)]
    defects: list[Callable[[Any], Any]] = [lambda a: a.astype(np.int16), lambda a: a[..., ::-1], lambda a: "array"]
    return [call(op, name, bad) for op, name in arrays for bad in defects]


def large_calls() -> list[Call]:
    """Ops whose outputs come from the pool, of several sizes."""
    arrays = [np.ones((rows, 1024), np.float32) for rows in (256, 700, 2048)]
    gamma = np.ones(1024, np.float32)

    def call(x: Any) -> Call:
        return lambda: (cregkit.layer_norm(x, gamma), cregkit.batch_norm_forward(x, gamma), cregkit.dropout(x, seed=1))

    return [call(x) for x in arrays]


def main() -> int:
    """Make the calls on the command line."""
    kinds = zip((small_calls(), refused_calls(), large_calls()), map(int, sys.argv[1:]), strict=True)
    grown = [growth(calls, n) for calls, n in kinds]
    print("bytes grown:", *grown)
    return int(max(grown[:2]) >= 1 << 20 or grown[2] >= 4 << 20)


if __name__ == "__main__":
    sys.exit(main())
