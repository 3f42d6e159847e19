"""bench/access_limits.py: its kernels read and write what the ops read and write."""

from __future__ import annotations

import platform
from functools import partial

import numpy as np
import pytest
from support import bench_script

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernels are for x86-64")


limits = bench_script("access_limits")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return limits.compiled(str(tmp_path_factory.mktemp("limits")))


@pytest.mark.parametrize("pattern", ["by_rows", "by_columns"])
@pytest.mark.parametrize("shape", [(3, 64), (1100, 32)])
def test_every_element_is_written_once(library, pattern, shape):
    x, dy = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    out = np.zeros_like(x)
    for gradient, wanted in ((None, x), (dy, x + dy)):
        access = limits.Access("op", shape, pattern, shape[0], partial(int), (x, gradient, out))
        access.kernel(library)()
        assert np.array_equal(out, wanted)


def test_every_op_of_the_list_runs():
    names = set()
    for access in limits.accesses():
        if np.prod(access.shape) < 1e6:
            access.call()
            names.add(access.op)
    norms = ("layer_norm", "group_norm", "batch_norm")
    assert names == {f"{norm}_{way}" for norm in norms for way in ("forward", "backward")}
