# Recycled memory for large arrays.
#
# The first touch of 128 MiB of new memory costs more than any op on it: the kernel has to find, clear and map every
# page. So large outputs reuse blocks of freed outputs. This uses NumPy's allocation handlers (NEP 49): an array
# allocated under a handler is an ordinary array that owns its data, and frees it with that handler.
#
# The pool holds freed blocks only, newest last, at most `limit_bytes` in total. When full, it releases the oldest.
# If an allocation fails, the pool releases all blocks and tries once more. A lock guards the pool, because any thread
# may free an array. A fork takes the lock first, so that the child's pool is consistent.
import os

from cregkit.kernels._cpu import memory_bytes

from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_DECREF
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memmove, memset

cnp.import_array()


cdef extern from * nogil:
    """
    #include "platform.h"

    static creg_lock creg_pool = CREG_UNLOCKED;
    static void creg_pool_lock(void) { creg_acquire(&creg_pool); }
    static void creg_pool_unlock(void) { creg_release(&creg_pool); }
    """
    void creg_pool_lock()
    void creg_pool_unlock()
    ctypedef void (*creg_notice)() noexcept nogil
    void creg_at_fork(creg_notice before, creg_notice in_parent, creg_notice in_child)
    void *creg_pages(size_t size)
    void creg_free_pages(void *pages, size_t size)


cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *, size_t) noexcept nogil
        void *(*calloc)(void *, size_t, size_t) noexcept nogil
        void *(*realloc)(void *, void *, size_t) noexcept nogil
        void (*free)(void *, void *, size_t) noexcept nogil

    ctypedef struct PyDataMem_Handler:
        char name[127]
        uint8_t version
        PyDataMemAllocator allocator

    object PyDataMem_SetHandler(object handler)
    PyObject *array_or_null "PyArray_EMPTY"(int ndim, cnp.npy_intp *shape, int dtype, int fortran)


cdef enum:
    MAX_BLOCKS = 256
    ALIGNMENT = 64
    # Elements of the smallest pooled array: malloc recycles smaller ones well enough.
    SMALLEST = 64 * 1024
    HUGE_PAGE = 2 * 1024 * 1024

# A freed block. Its memory begins with its size, in a separate cache line; the data of an array follow.
cdef struct Block:
    size_t size
    void *memory

cdef Block held[MAX_BLOCKS]
cdef int n_held = 0
cdef size_t held_bytes = 0
cdef size_t limit_bytes = 0
cdef size_t hits = 0
cdef size_t misses = 0


cdef size_t rounded(size_t size) noexcept nogil:
    cdef size_t unit = HUGE_PAGE if size > HUGE_PAGE else 64 * 1024
    return (size + ALIGNMENT + unit - 1) // unit * unit


cdef void forget(int i) noexcept nogil:
    global n_held, held_bytes
    held_bytes -= held[i].size
    n_held -= 1
    memmove(&held[i], &held[i + 1], (n_held - i) * sizeof(Block))


# The newest block that fits without wasting more than an eighth, or NULL.
cdef void *take(size_t size) noexcept nogil:
    global hits, misses
    cdef int i
    cdef void *memory = NULL
    creg_pool_lock()
    for i in range(n_held - 1, -1, -1):
        if size <= held[i].size <= size + size // 8:
            memory = held[i].memory
            forget(i)
            break
    if memory != NULL:
        hits += 1
    else:
        misses += 1
    creg_pool_unlock()
    return memory


cdef bint pool_is_open() noexcept nogil:
    return limit_bytes > 0


cdef void release_oldest() noexcept nogil:
    creg_free_pages(held[0].memory, held[0].size)
    forget(0)


# Releases the oldest blocks until `size` more bytes fit.
cdef void make_room(size_t size) noexcept nogil:
    while n_held > 0 and (n_held == MAX_BLOCKS or held_bytes + size > limit_bytes):
        release_oldest()


cdef void release_all() noexcept nogil:
    creg_pool_lock()
    while n_held > 0:
        release_oldest()
    creg_pool_unlock()


cdef void *pool_malloc(void *ctx, size_t size) noexcept nogil:
    cdef size_t whole = rounded(size)
    cdef void *memory = take(whole)
    if memory == NULL:
        memory = creg_pages(whole)
        if memory == NULL:
            release_all()
            memory = creg_pages(whole)
        if memory == NULL:
            return NULL
        (<size_t *>memory)[0] = whole
    return <char *>memory + ALIGNMENT


cdef void pool_free(void *ctx, void *data, size_t size) noexcept nogil:
    global n_held, held_bytes
    cdef void *memory
    if data == NULL:
        return
    memory = <char *>data - ALIGNMENT
    cdef size_t whole = (<size_t *>memory)[0]
    if whole > limit_bytes:
        creg_free_pages(memory, whole)
        return
    creg_pool_lock()
    make_room(whole)
    held[n_held] = Block(whole, memory)
    n_held += 1
    held_bytes += whole
    creg_pool_unlock()


cdef void *pool_calloc(void *ctx, size_t n, size_t size) noexcept nogil:
    cdef void *data = pool_malloc(ctx, n * size)
    if data != NULL:
        memset(data, 0, n * size)
    return data


cdef void *pool_realloc(void *ctx, void *data, size_t size) noexcept nogil:
    cdef void *moved = pool_malloc(ctx, size)
    if moved != NULL and data != NULL:
        memcpy(moved, data, min(size, (<size_t *>(<char *>data - ALIGNMENT))[0] - ALIGNMENT))
        pool_free(ctx, data, 0)
    return moved


cdef PyDataMem_Handler handler
memset(&handler, 0, sizeof(handler))
memcpy(handler.name, b"cregkit_pool", 13)
handler.version = 1
handler.allocator.malloc = pool_malloc
handler.allocator.calloc = pool_calloc
handler.allocator.realloc = pool_realloc
handler.allocator.free = pool_free

cdef object handler_capsule = PyCapsule_New(&handler, "mem_handler", NULL)
creg_at_fork(creg_pool_lock, creg_pool_unlock, creg_pool_unlock)


# An array in NumPy's default memory. (A try block would cost a tenth of the smallest op.)
cdef cnp.ndarray numpy_array(int ndim, cnp.npy_intp *shape, int dtype):
    cdef PyObject *a = array_or_null(ndim, shape, dtype, 0)
    if a == NULL:
        PyErr_Clear()
        release_all()
        return cnp.PyArray_EMPTY(ndim, shape, dtype, 0)
    cdef cnp.ndarray array = <cnp.ndarray>a
    Py_DECREF(array)
    return array


cdef cnp.ndarray pooled_array(int ndim, cnp.npy_intp *shape, int dtype):
    cdef cnp.npy_intp elements = 1
    cdef int i
    for i in range(ndim):
        elements *= shape[i]
    if elements < SMALLEST or not pool_is_open():
        return numpy_array(ndim, shape, dtype)
    outer = PyDataMem_SetHandler(handler_capsule)
    try:
        return cnp.PyArray_EMPTY(ndim, shape, dtype, 0)
    finally:
        PyDataMem_SetHandler(outer)


def clear_pool():
    """Release all memory that the pool holds. Arrays in use are not affected.

    Examples
    --------
    >>> import cregkit as ck
    >>> ck.clear_pool()
    >>> ck.show_config()["pool"]["bytes"]
    0
    """
    release_all()


def pool_statistics():
    """Return the pool's contents, limit, hits and misses as a dict of whole numbers."""
    return {"blocks": n_held, "bytes": held_bytes, "limit_bytes": limit_bytes, "hits": hits, "misses": misses}


def _choose_limit():
    """Set the limit: CREGKIT_POOL_MB, else a sixteenth of the memory that this process may use, at most 1 GiB."""
    global limit_bytes
    wanted = os.environ.get("CREGKIT_POOL_MB", "").strip()
    if wanted:
        if not wanted.isdecimal() or int(wanted) > 1 << 30:
            raise ImportError(
                f"the environment variable CREGKIT_POOL_MB must be a whole number of MiB (0: no pool), got {wanted!r}")
        limit_bytes = int(wanted) << 20
        return
    limit_bytes = min(1 << 30, memory_bytes() // 16)


_choose_limit()
