# Temporary memory of a call, with or without the GIL. Large blocks come from the pool.
from libc.stdlib cimport free, malloc

from cregkit.kernels._pool cimport pool_free, pool_is_open, pool_malloc, release_all

cdef enum:
    # Bytes before the memory of a block: its header, in a separate cache line.
    HEADER = 64
    # Bytes of the smallest block from the pool: malloc recycles smaller ones well enough.
    SMALLEST = 256 * 1024

cdef struct Block:
    Block *older
    bint pooled


cdef void *allocate(size_t size, bint pooled) noexcept nogil:
    if pooled:
        return pool_malloc(NULL, size)
    cdef void *memory = malloc(size)
    if memory == NULL:
        release_all()
        memory = malloc(size)
    return memory


cdef void *reserve(Workspace *w, size_t size) except NULL nogil:
    cdef bint pooled = size >= SMALLEST and pool_is_open()
    cdef Block *block = <Block *>allocate(HEADER + size, pooled)
    if block == NULL:
        with gil:
            raise MemoryError(f"unable to allocate {size} bytes of temporary memory")
    block.older, block.pooled = <Block *>w.newest, pooled
    w.newest = block
    return <char *>block + HEADER


cdef void release(Workspace *w) noexcept nogil:
    cdef Block *block = <Block *>w.newest
    cdef Block *older
    while block != NULL:
        older = block.older
        if block.pooled:
            pool_free(NULL, block, 0)
        else:
            free(block)
        block = older
    w.newest = NULL
