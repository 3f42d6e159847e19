# Recycled memory for large outputs.
cimport numpy as cnp


# A new, uninitialised array. Large arrays take their memory from the pool.
cdef cnp.ndarray pooled_array(int ndim, cnp.npy_intp *shape, int dtype)

# Memory from the pool, aligned to 64 bytes (NULL: none left), and its return. `ctx` and the size of pool_free are
# ignored.
cdef void *pool_malloc(void *ctx, size_t size) noexcept nogil
cdef void pool_free(void *ctx, void *data, size_t size) noexcept nogil

# Whether the pool may hold memory.
cdef bint pool_is_open() noexcept nogil

# Frees all memory that the pool holds.
cdef void release_all() noexcept nogil
