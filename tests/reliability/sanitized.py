"""Runs the tests with extensions built with AddressSanitizer and UBSan.

``python tests/reliability/sanitized.py [PYTEST ARGUMENT...]`` builds a copy of the tree with CREGKIT_SANITIZE=1, checks
that planted errors are reported, and runs pytest there. It skips tests that limit or measure memory, because
AddressSanitizer reserves terabytes of address space, and tests with PyTorch, whose allocator it cannot follow.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pythons

SKIPPED = ["test_torch*.py", "test_resources.py", "test_experiments.py", "test_documentation.py"]
UNSUITED = "not little_memory and not within_64_mib and not allocation and not memory_behind and not torch"
UNSUITED += " and not page_of_the_room"  # the installed package has no pages

# Ops on an array that claims 64 elements more than its memory holds.
PLANTED = """
import sys
import numpy as np
import cregkit
from cregkit.kernels import _runtime
_runtime.use_isa(sys.argv[1])
long = np.lib.stride_tricks.as_strided(np.ones(1000, np.float32), (1, 1064))
good = np.ones((1, 1064), np.float32)
eval(sys.argv[2])
"""
CALLS = (
    "cregkit.layer_norm(long)",
    "cregkit.rms_norm(good, out=long)",
    "cregkit.dropout(long, 0.5, seed=1)",
    "cregkit.batch_norm_forward(np.lib.stride_tricks.as_strided(long, (56, 19)))",
    "cregkit.dropout_add_rms_norm_forward(good, long)",
    "cregkit.sgd_step(long, good, 0.1)",
    "cregkit.layer_norm(np.lib.stride_tricks.as_strided(long, (1, 1001)))",  # beyond by one element: a masked load
    "cregkit.sgd_step(np.lib.stride_tricks.as_strided(long, (1, 1001)), good[:, :1001].copy(), 0.1)",
)

# GCC 12 calls it an unknown crash when a vector starts inside an array and ends beyond it.
SEEN = re.compile("ERROR: AddressSanitizer: (heap-buffer-overflow|unknown-crash)")


def environment(tree: Path) -> dict[str, str]:
    """Environment of a Python that loads the extensions: the sanitizers come first."""
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter itself leaks objects
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(tree),
        "PYTHONMALLOC": "malloc",
    }


def build(tree: Path) -> None:
    """Copy the tree, with a package that pip compiled with sanitizers (pip brings the build tools)."""
    pythons.copy_tree(tree)
    sources = shutil.copytree(tree, tree.with_name("sources"))
    shutil.rmtree(tree / "cregkit")
    flags = {"CREGKIT_SANITIZE": "1", "CREGKIT_WERROR": "0"}
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tree), str(sources)]
    done = subprocess.run(command, env={**os.environ, **flags}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def plant_errors(tree: Path) -> int:
    """Check that every planted error is reported on every instruction set; return their number."""
    from cregkit.kernels import _runtime

    isas = _runtime.available_isas()
    for isa in isas:
        for call in CALLS:
            command = [sys.executable, "-c", PLANTED, isa, call]
            done = subprocess.run(command, cwd=tree, env=environment(tree), capture_output=True, text=True, check=False)
            if done.returncode == 0 or not SEEN.search(done.stderr):
                raise SystemExit(f"AddressSanitizer does not see the error in {call} ({isa}):\n{done.stderr}")
    return len(isas) * len(CALLS)


def main() -> int:
    """Build, plant errors, and run pytest."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        build(tree)
        print(f"{plant_errors(tree)} planted errors seen", flush=True)
        left_out = [f"--ignore-glob=*/{name}" for name in SKIPPED]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", UNSUITED, *left_out]
        return subprocess.run([*command, *sys.argv[1:]], cwd=tree, env=environment(tree), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
