# The instruction set in use, and the sizes of tasks.
import os

from cregkit.kernels._cpu import last_cache_bytes

from cregkit.kernels._arrays cimport floats
from cregkit.kernels._csrc cimport CREG_CHUNK_ROWS
from cregkit.kernels._threads cimport run_parallel

cnp.import_array()


cdef extern from "cregkit.h" nogil:
    const creg_kernels *creg_kernels_ranked(int rank)
    void creg_cpu_name(char *name)

# ---- instruction sets ----

cdef const creg_kernels *table = NULL


cdef const creg_kernels *kernels() noexcept nogil:
    return table


def available_isas():
    """Names of the instruction sets this CPU can run, best first."""
    names = []
    cdef int rank = 0
    while creg_kernels_ranked(rank) != NULL:
        names.append(creg_kernels_ranked(rank).isa.decode())
        rank += 1
    return names


def current_isa():
    """Name of the instruction set in use."""
    return table.isa.decode()


def use_isa(str name):
    """Use another instruction set from here on, in the whole process: for `cregkit check` and the tests."""
    global table
    names = available_isas()
    if name not in names:
        raise ValueError(f"isa must be one of {', '.join(names)} on this CPU, got {name!r}")
    table = creg_kernels_ranked(names.index(name))


def cpu_name():
    """The CPU's own name for itself, or "" where it has none."""
    cdef char name[49]
    creg_cpu_name(name)
    return name.decode("ascii", "replace").strip()


def _choose_isa():
    wanted = os.environ.get("CREGKIT_ISA", "").strip().lower() or available_isas()[0]
    try:
        use_isa(wanted)
    except ValueError as error:
        raise ImportError(f"the environment variable CREGKIT_ISA cannot be obeyed: {error}") from None


_choose_isa()

# ---- tasks ----

# Numbers a task over rows takes: enough to hide its start, few enough to balance the threads. Large arrays have larger
# tasks, because a task fetches each row while it works on the one before, but the first.
cdef ptrdiff_t TASK_ELEMENTS = 16 * 1024, LARGE_TASK_ELEMENTS = 128 * 1024, LARGE_TASKS = 128

# Where inputs and outputs together have so many bytes, outputs are written around the cache: they fill the last one, so
# that what is written is gone before anyone reads it, and writing it through the cache would first read it. On a CPU
# with 32 MiB of it, layer norm of 1, 2, 3, 4 Mi numbers (8 to 32 MiB) took 1.2, 1.1, 0.9, 0.6 times as long so (Zen 3);
# on another, 1.5, 1.2, 0.8, 0.8 times at 8, 16, 32, 48 MiB, and its backward 1.2, 0.9, 0.8 times at 12, 24, 48 MiB (Zen
# 5). Nothing of a cache that many cores share can be relied on: of 480 MiB, two cores saw about 64 (a Xeon, where layer
# norm took 1.2, 1.1, 0.9, 0.7 times as long so at 32, 64, 80, 96 MiB, batch norm 1.0, 0.9, 0.8, 0.7 times), so that
# 80 MiB are enough whatever its size.
LAST_CACHE_BYTES = last_cache_bytes()
STREAM_BYTES = min(80 << 20, max(8 << 20, LAST_CACHE_BYTES)) if LAST_CACHE_BYTES else 80 << 20
cdef ptrdiff_t stream_bytes = STREAM_BYTES


cdef ptrdiff_t rows_per_task(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil:
    cdef ptrdiff_t elements = min(LARGE_TASK_ELEMENTS, max(TASK_ELEMENTS, rows * cols // LARGE_TASKS))
    return max(1, elements // cols)


# At least eight rows in each: the sums of every chunk are stored and read again, as much as a row. (64, 16384) took 0.9
# of the time with eight that it took with four; (32, 65537) takes 0.8 with eight of what it took with two.
cdef ptrdiff_t rows_per_chunk(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil:
    return min(<ptrdiff_t>CREG_CHUNK_ROWS, max(<ptrdiff_t>8, (rows + 15) // 16))


# A smaller bias than 2^100 is lost in the rounding of what overflows.
cdef bint needs_affine_rows(const float *beta, ptrdiff_t cols) noexcept nogil:
    return beta != NULL and not kernels().are_at_most(beta, 2.0**100, cols)


cdef struct AffineRows:
    float *y
    const float *gamma
    const float *beta
    ptrdiff_t rows, cols, step


cdef void affine_rows_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef AffineRows *a = <AffineRows *>args
    cdef ptrdiff_t i = task * a.step
    kernels().affine_rows(a.y + i * a.cols, a.gamma, a.beta, min(a.step, a.rows - i), a.cols)


cdef void affine_rows(cnp.ndarray y, cnp.ndarray gamma, cnp.ndarray beta) noexcept:
    cdef ptrdiff_t cols = cnp.PyArray_SIZE(beta), rows = cnp.PyArray_SIZE(y) // cols
    cdef AffineRows args = AffineRows(floats(y), floats(gamma), floats(beta), rows, cols, rows_per_task(rows, cols))
    run_parallel(affine_rows_task, &args, (rows + args.step - 1) // args.step, rows * cols)


cdef int streams(ptrdiff_t elements, int arrays) noexcept nogil:
    return elements * arrays * <ptrdiff_t>sizeof(float) >= stream_bytes
