# Temporary memory of a call, with or without the GIL.


# The blocks that a call has reserved; it starts as Workspace(NULL).
cdef struct Workspace:
    void *newest

# Memory of so many bytes, valid until release(). Raises MemoryError.
cdef void *reserve(Workspace *w, size_t size) except NULL nogil

# Frees all blocks.
cdef void release(Workspace *w) noexcept nogil
