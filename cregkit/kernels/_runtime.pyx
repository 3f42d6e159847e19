# The instruction set in use, and the sizes of tasks.
import os

from cregkit.kernels._cpu import last_cache_bytes

from cregkit.kernels._csrc cimport CREG_TASK

cdef extern from "cregkit.h" nogil:
    const creg_kernels *creg_kernels_ranked(int rank)
    void creg_cpu_name(char *name)

# ---- instruction sets ----

cdef const creg_kernels *table = NULL


cdef const creg_kernels *kernels() noexcept nogil:
    return table


cdef const creg_kernels *kernels_of(int stored) noexcept nogil:
    return table.stored[stored]


def available_isas():
    """Return the names of the instruction sets this CPU can run, best first."""
    names = []
    cdef int rank = 0
    while creg_kernels_ranked(rank) != NULL:
        names.append(creg_kernels_ranked(rank).isa.decode())
        rank += 1
    return names


def current_isa():
    """Return the name of the instruction set in use."""
    return table.isa.decode()


def use_isa(str name):
    """Select the instruction set of all later calls of the process, for `cregkit check` and the tests."""
    global table
    names = available_isas()
    if name not in names:
        raise ValueError(f"isa must be one of {', '.join(names)} on this CPU, got {name!r}")
    table = creg_kernels_ranked(names.index(name))


def cpu_name():
    """Return the CPU's name from CPUID, or "" where there is none."""
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

# ---- sizes ----

# A task over rows has CREG_TASK elements: enough to amortise its start, few enough to balance the threads. Tasks of
# large arrays are larger, because the first row of a task is not prefetched.
cdef enum:
    LARGE_TASK_ELEMENTS = 128 * 1024
    LARGE_TASKS = 128

# Above this much traffic of inputs and outputs, use non-temporal stores: outputs would be evicted from the LLC before
# they are read, and a cached store reads memory first. At most 80 MiB, because other cores share the LLC. Measurements:
# csrc/TUNING.md.
LAST_CACHE_BYTES = last_cache_bytes()
STREAM_BYTES = min(80 << 20, max(8 << 20, LAST_CACHE_BYTES)) if LAST_CACHE_BYTES else 80 << 20
cdef ptrdiff_t stream_bytes = STREAM_BYTES


cdef ptrdiff_t rows_per_task(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil:
    cdef ptrdiff_t elements = min(<ptrdiff_t>LARGE_TASK_ELEMENTS, max(<ptrdiff_t>CREG_TASK, rows * cols // LARGE_TASKS))
    return max(1, elements // cols)


cdef int streams(ptrdiff_t bytes) noexcept nogil:
    return bytes >= stream_bytes
