"""Builds and runs the driver of the kernel table: plain, sanitized, under valgrind, for AArch64 under QEMU, with musl,
for Windows under Wine, and with AVX-512 emulated, for CPUs without it.

python tests/native/build.py VARIANT... [--lengths all|few|smoke] [--write]

Each variant must print the hashes in tests/golden/; ``--write`` puts those of the first variant there instead, for all
lengths unless told which.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
GOLDEN = HERE.parent / "golden"
LENGTHS = ("smoke", "few", "all")
EMULATED = sorted(HERE.glob("emulated*.c"))

FLAGS = ["-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", f"-I{CSRC}"]
NOT_FORCED = "-DCREG_INLINE=static inline"  # see cregkit.h
QUICK = ("-O1", "-g1", NOT_FORCED)  # compiles in a tenth of the time of -O2
# Includes what libFuzzer needs, so that the driver and fuzz.c share the objects.
SANITIZED = (
    *("-O1", "-g1", "-fno-omit-frame-pointer", "-Wno-unused-function", NOT_FORCED),
    *("-fsanitize=fuzzer-no-link,address,undefined", "-fno-sanitize-recover=all"),
)
# Debian's Clang does not find the libgcc of Debian's MinGW.
WINDOWS = ("--target=x86_64-w64-mingw32", "-O2", "-static", "-Wno-unused-function")
WINDOWS += tuple(f"-L{folder}" for folder in Path("/usr/lib/gcc/x86_64-w64-mingw32").glob("*-posix"))


@dataclass(frozen=True)
class Variant:
    """How to compile the driver and how to run it."""

    compiler: str
    flags: tuple[str, ...]
    runner: tuple[str, ...] = ()
    threads: int = 1
    emulated: bool = False

    @property
    def tools(self) -> tuple[str, ...]:
        """The programs it needs."""
        return (self.compiler, *self.runner[:1])


VARIANTS = {
    "plain": Variant("gcc", QUICK),
    "release": Variant("gcc", ("-O3", "-Werror")),
    "clang": Variant("clang", ("-O2", "-Wno-unused-function")),
    "threads": Variant("gcc", (*QUICK, "-fsanitize=thread"), threads=4),
    "sanitized": Variant("clang", SANITIZED),
    "valgrind": Variant("gcc", QUICK, ("valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full")),
    "avx512": Variant("gcc", (*QUICK, "-Wno-psabi"), emulated=True),
    "aarch64": Variant("aarch64-linux-gnu-gcc", ("-O2", "-static"), ("qemu-aarch64",)),
    "musl": Variant("musl-gcc", ("-O2", "-static")),
    "windows": Variant("clang", WINDOWS, ("wine",)),
}


@dataclass(frozen=True)
class Result:
    """Output of one run of the driver: the hash of each op and type, the number of trials, and the tables tried."""

    hashes: dict[str, str]
    trials: int
    tables: tuple[str, ...]


def missing_tools(variant: Variant) -> list[str]:
    """The programs that are not installed, and SIMDe if it is not."""
    missing = [tool for tool in variant.tools if shutil.which(tool) is None]
    if variant.emulated and not missing:
        probe = [variant.compiler, "-E", "-include", "simde/x86/avx512.h", "-x", "c", os.devnull]
        missing += ["simde"] * (subprocess.run(probe, capture_output=True, check=False).returncode != 0)
    return missing


def compile_kernels(variant: Variant, folder: Path) -> list[Path]:
    """Compile csrc/, and the emulation if wanted, in parallel and once for each folder; return the objects."""
    folder = folder / f"objects-{variant.compiler}-{abs(hash(variant))}"
    sources = [*sorted(CSRC.glob("*.c")), *EMULATED * variant.emulated]
    objects = {path: folder / f"{path.stem}.o" for path in sources}
    if folder.exists():
        return list(objects.values())
    folder.mkdir()
    command = [variant.compiler, *FLAGS, *variant.flags, "-c"]
    intrinsics = [f"-I{HERE / 'emulated'}"]  # for the emulation alone: SIMDe's AVX2 reads beyond its masks
    running = [
        subprocess.Popen([*command, *intrinsics * (path in EMULATED), str(path), "-o", str(target)])
        for path, target in objects.items()
    ]
    if sum(process.wait() for process in running):
        raise RuntimeError(f"csrc/ does not compile with {' '.join(command)}")
    return list(objects.values())


def compile_driver(variant: Variant, folder: Path, objects: list[Path], *extra: str, source: str = "driver.c") -> Path:
    """Compile and link a program of this folder with the kernels."""
    program = folder / Path(source).with_suffix(".exe").name  # Windows wants the suffix
    files = [str(HERE / source), *map(str, objects)]
    tables = ["-Dcreg_kernels_ranked=emulated_ranked"] * variant.emulated
    command = [variant.compiler, *FLAGS, *variant.flags, *tables, *extra, *files, "-o", str(program), "-pthread", "-lm"]
    subprocess.run(command, check=True)
    return program


def run_driver(variant: Variant, program: Path, lengths: str, *op: str) -> Result:
    """Run the driver, on all ops or on one.

    Raises:
        RuntimeError: it found an error, or was killed; with its output.
    """
    command = [*variant.runner, str(program), lengths, str(variant.threads), *op]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    lines = [line.split() for line in done.stdout.splitlines()]
    return Result({line[0]: line[1] for line in lines}, sum(int(line[2]) for line in lines), tuple(lines[0][3:]))


def read_golden(lengths: str) -> dict[str, str]:
    """The hashes every machine must find."""
    return dict(line.split() for line in golden_file(lengths).read_text().splitlines())


def golden_file(lengths: str) -> Path:
    """The file of these hashes."""
    return GOLDEN / f"kernels-{lengths}.txt"


def check(name: str, lengths: str, folder: Path) -> Result:
    """Build and run one variant, and compare with the hashes in tests/golden/."""
    variant = VARIANTS[name]
    result = run_driver(variant, compile_driver(variant, folder, compile_kernels(variant, folder)), lengths)
    golden, found = read_golden(lengths), result.hashes
    if wrong := {op for op in golden.keys() | found.keys() if golden.get(op) != found.get(op)}:
        raise RuntimeError(f"{name}: other bits than in {golden_file(lengths).name}: {', '.join(sorted(wrong))}")
    return result


def write(name: str, every_lengths: Sequence[str], folder: Path) -> None:
    """Write the hashes of one variant to tests/golden/."""
    variant = VARIANTS[name]
    program = compile_driver(variant, folder, compile_kernels(variant, folder))
    for lengths in every_lengths:
        found = run_driver(variant, program, lengths).hashes
        golden_file(lengths).write_text("".join(f"{op} {value}\n" for op, value in found.items()))


def main() -> int:
    """Run the variants on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="+", choices=VARIANTS, metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--lengths", choices=LENGTHS, help="default: few")
    parser.add_argument("--write", action="store_true", help="write the hashes of the first variant to tests/golden/")
    asked = parser.parse_args()
    for name in asked.variants:
        if missing := missing_tools(VARIANTS[name]):
            print(f"{name}: not installed: {', '.join(missing)}", file=sys.stderr)
            return 1
        with tempfile.TemporaryDirectory() as folder:
            if asked.write:
                write(name, [asked.lengths] if asked.lengths else LENGTHS, Path(folder))
                return 0
            result = check(name, asked.lengths or "few", Path(folder))
        print(f"{name:16} {result.trials:8} trials, all equal: {' '.join(result.tables)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
