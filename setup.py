"""Builds the extension modules: one for the runtime with all of csrc/, one for each op's Cython kernels, and one of C++
for PyTorch's dispatcher, where PyTorch is importable.

Environment: CREGKIT_BUNDLE_OPENMP=1 puts this machine's OpenMP runtime into the wheel, to be used where there is no
other; CREGKIT_WERROR=1 turns C warnings into errors; CREGKIT_SANITIZE=1 builds with AddressSanitizer and
UBSan, for tests/reliability/sanitized.py.
"""

import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

KERNELS = [
    "_pool", "_workspace", "_threads", "_arrays", "_stored", "column_sums", "wide_rows", "channel_norm", "row_norm",
    "layer_norm", "rms_norm", "batch_norm", "group_norm", "ghost_batch_norm", "dropout", "drop_block",
    "dropout_add_norm", "optimizer", "images", "noise", "_entries",
]  # fmt: skip
OLDEST_TORCH = (2, 10)
C_SOURCES = sorted(str(path) for path in Path("csrc").glob("*.c"))
C_HEADERS = sorted(str(path) for pattern in ("*.h", "*.def") for path in Path("csrc").glob(pattern))
CYTHON_HEADERS = sorted({"cregkit/kernels/_csrc.pxd", *(str(path) for path in Path("cregkit/kernels").glob("*.pxd"))})


DECLARATIONS = """# The C contract: made by setup.py from csrc/cregkit.h and csrc/kernels.def.
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int16_t, int64_t, uint32_t, uint64_t


cdef extern from "cregkit.h" nogil:
"""


def declare_c():
    """Write _csrc.pxd, the constants, records and kernels of the C contract, unless it is up to date."""
    header = re.sub(r"/\*.*?\*/", "", Path("csrc/cregkit.h").read_text(), flags=re.DOTALL)
    text = DECLARATIONS
    for names in re.findall(r"enum \{(.*?)\};", header, re.DOTALL):
        text += "".join(f"    const int {name}\n" for name in re.findall(r"CREG_\w+", names))
    for fields, name in re.findall(r"typedef struct \{([^{}#]*)\} (\w+);", header):
        text += f"\n    ctypedef struct {name}:\n"
        for base, declarators in re.findall(r"((?:const |unsigned )?\w+) ([^;]+);", fields):
            text += "".join(f"        {base} {declarator.strip()}\n" for declarator in declarators.split(","))
    text += "\n    ctypedef struct creg_kernels:\n        const char *isa\n        const creg_kernels *stored[3]\n"
    kernel = r"^CREG_(?:FLOAT32_)?KERNEL\((\w+), (\w+),\s*\(([^()]*)\)\)"
    for result, name, arguments in re.findall(kernel, Path("csrc/kernels.def").read_text(), re.MULTILINE):
        text += f"        {result} (*{name})({' '.join(arguments.split())}) noexcept nogil\n"
    target = Path("cregkit/kernels/_csrc.pxd")
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def wanted(variable):
    return os.environ.get(variable, "0") not in ("", "0")


# -ffp-contract=off: a fused multiply-add would round once where another machine rounds twice.
# -falign-*: where a kernel's loops lie in cache lines must not depend on the code before it. Layer norm of (64, 256)
# was 1.09x slower after a change to another file (Zen 5).
# -fno-builtin-memset: GCC would zero a call's record by rep stos, which is 10 ns slower than the function.
C_FLAGS = ["-std=c11", "-O3", "-g0", "-fno-builtin-memset"]
C_FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wpointer-arith"]
C_FLAGS += ["-falign-functions=64", "-falign-loops=32"]
# -O3 makes norms of short rows 1.3-1.9x faster, but on the baseline table it takes twice as long and is no faster. The
# flags of AVX2's 16-bit tables, which Clang does not know, save a quarter of their time and no speed.
QUICKER = ["-fno-ipa-cp-clone", "-fno-unswitch-loops", "-fno-split-loops", "-fno-tree-loop-distribution"]
OPTIMISATION = {
    "isa_scalar.c": ["-O2", "-ftree-vectorize"],
    "isa_scalar_float16.c": ["-O1"],
    "isa_scalar_bfloat16.c": ["-O1"],
    "isa_avx2_float16.c": QUICKER,
    "isa_avx2_bfloat16.c": QUICKER,
}
# The headers of clang-cl declare no intrinsics beyond those of the command line's instruction set.
TYPES = ("", "_float16", "_bfloat16")
CLANG_CL = {
    "avx2": ["/arch:AVX2"],
    "avx512": ["/arch:AVX512"],
}
LINK_FLAGS = ["-Wl,-s"] if sys.platform.startswith("linux") else []
if wanted("CREGKIT_SANITIZE"):
    SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    C_FLAGS += ["-O1", "-g1", "-fno-omit-frame-pointer", "-DCREG_INLINE=static inline", *SANITIZERS]
    LINK_FLAGS = SANITIZERS


def accepted(compiler, flags):
    """Those of the flags that the C compiler knows without a warning."""
    command = [*compiler.compiler_so, "-Werror", "-fsyntax-only", "-x", "c", os.devnull]
    return [
        flag for flag in flags if subprocess.run([*command, flag], capture_output=True, check=False).returncode == 0
    ]


def use_clang_cl(compiler, extensions):
    """Compile with clang-cl, which links with Microsoft's libraries and takes Clang's flags behind /clang:."""
    compiler.initialize()
    compiler.cc = shutil.which("clang-cl")
    if compiler.cc is None:
        raise SystemExit("cregkit needs clang-cl on Windows: its SIMD code is written for Clang's vector extensions.")
    for extension in extensions:
        extension.extra_compile_args = [f"/clang:{flag}" for flag in extension.extra_compile_args]


def compile_side_by_side(compiler, pool):
    """Give each source that `compiler` compiles to a thread of `pool`, those of one extension too."""
    compile_sources = compiler.compile
    own_flags = {}
    if compiler.compiler_type == "msvc":
        own_flags = {f"isa_{isa}{suffix}.c": flags for isa, flags in CLANG_CL.items() for suffix in TYPES}
    elif not wanted("CREGKIT_SANITIZE"):
        own_flags = {name: accepted(compiler, flags) for name, flags in OPTIMISATION.items()}

    def compile_one(source, extra_postargs, **options):
        flags = own_flags.get(Path(source).name, [])
        return compile_sources([source], extra_postargs=extra_postargs + flags, **options)

    def compile_each(sources, **options):
        return [path for paths in pool.map(lambda source: compile_one(source, **options), sources) for path in paths]

    compiler.compile = compile_each


# The runtimes that a wheel may bundle, their texts in csrc/licenses/<name>.txt, and their SPDX expressions.
LICENSES = {"libgomp": "GPL-3.0-or-later WITH GCC-exception-3.1", "libomp": "Apache-2.0 WITH LLVM-exception"}


def bundle_openmp(folder):
    """Copy the OpenMP runtime found here into `folder`, for machines that have none."""
    runtime = runpy.run_path("cregkit/kernels/_openmp.py")["find_runtime"]()
    if runtime is None:
        raise SystemExit("CREGKIT_BUNDLE_OPENMP: no OpenMP runtime was found; install libgomp (GCC's) or libomp.")
    shutil.copy(runtime.path, folder)


def bundled_openmp(folder):
    """The OpenMP runtimes in `folder`, by the name of their project."""
    return {name: path for name in LICENSES for path in sorted(folder.glob(f"{name}[.-]*"))}


def bill_of_materials(name, version, runtimes):
    """What a wheel bundles, as CycloneDX describes it (https://cyclonedx.org)."""
    components = [
        {
            "type": "library",
            "bom-ref": runtime,
            "name": runtime,
            "licenses": [{"expression": LICENSES[runtime]}],
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
            "properties": [{"name": "file", "value": f"cregkit/kernels/{path.name}"}],
        }
        for runtime, path in runtimes.items()
    ]
    product = {"type": "library", "bom-ref": name, "name": name, "version": version}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**product, "purl": f"pkg:pypi/{name}@{version}"}},
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": list(runtimes)}],
    }


class BuildExtensions(build_ext):
    """Adds the flags that only the environment tells, and compiles on all cores."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count() or 1

    def build_extensions(self):
        werror = ["-Werror"] if wanted("CREGKIT_WERROR") else []
        for extension in self.extensions:
            extension.extra_compile_args += werror
        if self.compiler.compiler_type == "msvc":
            use_clang_cl(self.compiler, self.extensions)
        elif self.compiler.compiler_type != "unix":
            raise SystemExit("cregkit needs GCC or Clang: its SIMD code is written for their vector extensions.")
        with ThreadPoolExecutor(self.parallel) as pool:
            compile_side_by_side(self.compiler, pool)
            super().build_extensions()
        if wanted("CREGKIT_BUNDLE_OPENMP") and not self.inplace:
            bundle_openmp(Path(self.build_lib, "cregkit", "kernels"))


class Wheel(bdist_wheel):
    """Adds the licences of what the wheel bundles, and a bill of materials (PEP 770)."""

    def write_wheelfile(self, dist_info, *arguments):
        super().write_wheelfile(dist_info, *arguments)
        runtimes = bundled_openmp(Path(self.bdist_dir, "cregkit", "kernels"))
        if not runtimes:
            return
        for name in runtimes:
            shutil.copy(Path("csrc", "licenses", f"{name}.txt"), Path(dist_info, "licenses"))
        about = self.distribution.metadata
        bill = bill_of_materials(about.get_name(), about.get_version(), runtimes)
        boms = Path(dist_info, "sboms")
        boms.mkdir()
        (boms / "cregkit.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")


class SourceArchive(sdist):
    """Packs what building and testing need, and nothing that Cython generated."""

    def make_distribution(self):
        files = self.filelist
        patterns = [
            "cregkit/**/*.p[yx]*",
            "csrc/*.[ch]",
            "csrc/*.def",
            "csrc/*.md",
            "csrc/licenses/*.txt",
            "tests/**/*.md",
            "tests/**/*.py",
            "tests/**/*.csv",
            "tests/advice/logs/**/*",
            "tests/**/*.txt",
            "tests/**/*.[ch]",
            "bench/**/*.py",
            "bench/*.c",
            "bench/*.json",
            "bench/results/*.json",
            "bench/*.md",
            "bench/*.png",
            "[!.]*/README.md",
            "cregkit/**/*.md",
            "cregkit/torch/native/*.cpp",
            "cregkit/torch/native/*.h",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
        ]
        for pattern in patterns:
            files.extend(str(path) for path in Path().glob(pattern) if path.is_file() and path.suffix != ".pyc")
        generated = (".c", "_csrc.pxd")
        files.files = [p for p in files.files if not (p.endswith(generated) and Path(p).parts[0] == "cregkit")]
        files.remove_duplicates()
        super().make_distribution()


def extension(name, sources=()):
    return Extension(
        f"cregkit.kernels.{name}",
        [f"cregkit/kernels/{name}.pyx", *sources],
        include_dirs=["csrc", numpy.get_include()],
        depends=[*C_HEADERS, *CYTHON_HEADERS],
        define_macros=[(name, "NPY_2_0_API_VERSION") for name in ("NPY_NO_DEPRECATED_API", "NPY_TARGET_VERSION")],
        extra_compile_args=list(C_FLAGS),
        extra_link_args=list(LINK_FLAGS),
    )


def torch_extensions():
    """The kernels for PyTorch's dispatcher, where PyTorch is importable: a list of one extension, or of none.

    Its name tells PyTorch's version, because each minor version needs a binary of its own.
    """
    try:
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths
    except ImportError:
        return []
    version = torch.__version__.split("+")[0].split(".")
    if tuple(map(int, version[:2])) < OLDEST_TORCH:
        return []
    name = f"_dispatcher_{version[0]}_{version[1]}"
    system = [flag for path in include_paths() for flag in ("-isystem", path)]
    sources = Path("cregkit/torch/native")
    return [
        Extension(
            f"cregkit.torch.{name}",
            sorted(str(path) for path in sources.glob("*.cpp")),
            include_dirs=["csrc"],
            depends=[*C_HEADERS, *(str(path) for path in sources.glob("*.h"))],
            define_macros=[("TORCH_EXTENSION_NAME", name)],
            extra_compile_args=[*system, "-std=c++20", "-O2", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"],
            extra_link_args=list(LINK_FLAGS),
            library_dirs=library_paths(),
            libraries=["c10", "torch_cpu", "torch_python"],
            language="c++",
        )
    ]


declare_c()
setup(
    ext_modules=cythonize(
        [extension("_runtime", C_SOURCES), *[extension(name) for name in KERNELS]],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "freethreading_compatible": False,
        },
        nthreads=os.cpu_count() or 1 if shutil.which("cc") else 0,
    )
    + torch_extensions(),
    cmdclass={"build_ext": BuildExtensions, "bdist_wheel": Wheel, "sdist": SourceArchive},
)
