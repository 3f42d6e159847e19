# What the op modules share: the C contract, the chosen table, the parallel loop, buffer checks and output allocation.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t


cdef extern from "cregkit.h" nogil:
    const int CREG_PANEL
    const int CREG_CHUNK_ROWS
    const int CREG_WIDE_ROWS
    const int CREG_TILE
    const int CREG_DROPOUT_GROUP
    const int CREG_NOISE_GROUP
    const int CREG_NEAR
    const int CREG_FAR
    const int CREG_STREAM

    ctypedef struct creg_shape:
        ptrdiff_t n, c, s

    ctypedef struct creg_chunk:
        ptrdiff_t n0, n1, s0, s1

    ctypedef struct creg_channels:
        float *hi
        float *lo
        float *scale
        float *bias
        float *k1
        float *k2
        double *mean64
        double *scale64
        double *k1_64
        double *k2_64
        unsigned char *exact

    ctypedef struct creg_image:
        ptrdiff_t planes, height, width, pixel

    ctypedef struct creg_dropout:
        uint32_t key[2]
        uint16_t threshold
        uint32_t tie
        float scale

    ctypedef struct creg_sgd:
        float lr, weight_decay, momentum

    ctypedef struct creg_adamw:
        float shrink, l2, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, inv_sqrt_bias2, eps

    ctypedef struct creg_columns:
        float *partial_dgamma
        float *partial_dbeta
        const float *dy
        const float *x
        const double *mean
        const double *rstd
        float *dgamma
        float *dbeta
        ptrdiff_t rows, cols, step
        const unsigned char *exact

    ctypedef struct creg_wide_row:
        double mean, rstd, mean_g, mean_g_x_hat
        int exact

    ctypedef struct creg_wide:
        int rms
        const float *x
        const float *residual
        const float *dy
        const float *more
        const float *gamma
        const float *beta
        float *h
        float *y
        float *dx
        float *dropped
        float *dgamma
        float *dbeta
        double *sums
        creg_wide_row *row  # an array of CREG_WIDE_ROWS
        ptrdiff_t rows, cols
        double eps
        uint64_t first
        const creg_dropout *dropout
        int stream

    ctypedef void creg_dropout_add_norm_forward(
        const float *, const float *, const float *, const float *, float *, float *, double *, double *, ptrdiff_t,
        ptrdiff_t, double, uint64_t, const creg_dropout *, int) noexcept nogil
    ctypedef void creg_dropout_add_norm_backward(
        const float *, const float *, const double *, const double *, const float *, const float *, float *, float *,
        float *, float *, ptrdiff_t, ptrdiff_t, uint64_t, const creg_dropout *, int) noexcept nogil

    ctypedef struct creg_kernels:
        const char *isa
        void (*layer_norm_forward)(const float *, const float *, const float *, float *, double *, double *, ptrdiff_t,
                                   ptrdiff_t, double, int) noexcept nogil
        void (*layer_norm_backward)(const float *, const float *, const double *, const double *, const float *,
                                    float *, float *, float *, ptrdiff_t, ptrdiff_t, int) noexcept nogil
        void (*rms_norm_forward)(const float *, const float *, float *, double *, ptrdiff_t, ptrdiff_t, double,
                                 int) noexcept nogil
        void (*rms_norm_backward)(const float *, const float *, const double *, const float *, float *, float *,
                                  ptrdiff_t, ptrdiff_t, int) noexcept nogil
        void (*merge_columns)(const float *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, float *) noexcept nogil
        void (*merge_columns_exact)(const creg_columns *, ptrdiff_t, ptrdiff_t) noexcept nogil
        int (*sums_are_safe)(const float *, ptrdiff_t) noexcept nogil
        int (*sums_were_safe)(const float *, ptrdiff_t) noexcept nogil
        void (*affine_rows)(float *, const float *, const float *, ptrdiff_t, ptrdiff_t) noexcept nogil
        int (*are_at_most)(const float *, float, ptrdiff_t) noexcept nogil
        void (*batch_norm_moments)(const float *, creg_shape, creg_chunk, ptrdiff_t, ptrdiff_t, double *,
                                   double *) noexcept nogil
        void (*batch_norm_statistics)(const float *, creg_shape, const creg_chunk *, ptrdiff_t, const double *,
                                      const double *, double, ptrdiff_t, ptrdiff_t, double *, double *, double *,
                                      unsigned char *) noexcept nogil
        void (*batch_norm_running)(const float *, const float *, double, ptrdiff_t, double *, double *,
                                   unsigned char *) noexcept nogil
        void (*batch_norm_affine)(const double *, const double *, const float *, const float *, ptrdiff_t, ptrdiff_t,
                                  const creg_channels *) noexcept nogil
        void (*batch_norm_apply)(const float *, float *, creg_shape, creg_chunk, ptrdiff_t, ptrdiff_t,
                                 const creg_channels *, int) noexcept nogil
        void (*batch_norm_grad_sums)(const float *, const float *, creg_shape, creg_chunk, ptrdiff_t, ptrdiff_t,
                                     const creg_channels *, float *, float *) noexcept nogil
        void (*batch_norm_grad_merge)(const float *, const float *, creg_shape, ptrdiff_t, const float *,
                                      const float *, const double *, const double *, int, ptrdiff_t, ptrdiff_t,
                                      float *, float *, const creg_channels *) noexcept nogil
        void (*batch_norm_grad_affine)(double, const double *, const float *, int, ptrdiff_t, ptrdiff_t,
                                       const creg_channels *) noexcept nogil
        void (*batch_norm_grad_apply)(const float *, const float *, float *, creg_shape, creg_chunk, ptrdiff_t,
                                      ptrdiff_t, const creg_channels *, int) noexcept nogil
        void (*dropout)(const float *, float *, uint64_t, ptrdiff_t, const creg_dropout *, int) noexcept nogil
        void (*dropout_keep)(unsigned char *, uint64_t, ptrdiff_t, const creg_dropout *) noexcept nogil
        void (*spatial_dropout)(const float *, float *, uint64_t, ptrdiff_t, ptrdiff_t, const creg_dropout *,
                                int) noexcept nogil
        creg_dropout_add_norm_forward *dropout_add_layer_norm_forward
        creg_dropout_add_norm_forward *dropout_add_rms_norm_forward
        creg_dropout_add_norm_backward *dropout_add_layer_norm_backward
        creg_dropout_add_norm_backward *dropout_add_rms_norm_backward
        void (*wide_sums)(const creg_wide *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*wide_statistics)(creg_wide *, ptrdiff_t) noexcept nogil
        void (*wide_write)(const creg_wide *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*wide_grad_sums)(const creg_wide *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*wide_grad_means)(creg_wide *, ptrdiff_t) noexcept nogil
        void (*wide_grad_tile)(const creg_wide *, ptrdiff_t) noexcept nogil
        double (*sum_squares)(const float *, ptrdiff_t) noexcept nogil
        void (*scale)(const float *, float *, ptrdiff_t, float, int) noexcept nogil
        void (*sgd_step)(float *, const float *, float *, ptrdiff_t, const creg_sgd *) noexcept nogil
        void (*adamw_step)(float *, const float *, float *, float *, ptrdiff_t, const creg_adamw *) noexcept nogil
        uint64_t (*derived_seed)(uint64_t, uint64_t) noexcept nogil
        void (*sample_uniform)(double *, uint32_t, ptrdiff_t, const uint32_t *) noexcept nogil
        void (*gaussian_noise)(const float *, float *, uint32_t, ptrdiff_t, ptrdiff_t, float,
                               const uint32_t *) noexcept nogil
        void (*crop_image)(const float *, float *, creg_image, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                           int) noexcept nogil
        void (*flip_image)(const float *, float *, creg_image, int) noexcept nogil
        void (*rotate_image)(const float *, float *, creg_image, double, float) noexcept nogil
        void (*box_image)(const float *, const float *, float *, creg_image, const int64_t *, float) noexcept nogil
        void (*mix)(const float *, const float *, float *, ptrdiff_t, float) noexcept nogil
        int (*jitter_image)(const float *, float *, ptrdiff_t, int, int, const float *) noexcept nogil
        int (*are_colours)(const float *, ptrdiff_t) noexcept nogil


# The table in use.
cdef const creg_kernels *kernels() noexcept nogil

# Rows for each task of a loop over rows, from the shape alone.
cdef ptrdiff_t rows_per_task(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil

# Chunks of rows for column sums such as dgamma: rows in each (the last may have fewer), from the shape alone.
cdef ptrdiff_t rows_per_chunk(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil

# Whether x_hat * gamma may overflow on the way to a finite x_hat * gamma + beta (beta may be NULL). affine_rows() then
# applies gain and bias: y = y * gamma + beta in float64.
cdef bint needs_affine_rows(const float *beta, ptrdiff_t cols) noexcept nogil
cdef void affine_rows(cnp.ndarray y, cnp.ndarray gamma, cnp.ndarray beta) noexcept

# Whether the outputs of an op that goes through so many arrays of so many elements should be written around the cache.
cdef int streams(ptrdiff_t elements, int arrays) noexcept nogil

# Checked arrays. All raise TypeError or ValueError that names the argument, says what came and how to mend it.
cdef cnp.ndarray float32_array(object a, str name)
cdef cnp.ndarray float32_rows(object a, str name)
cdef cnp.ndarray float32_like(object a, str name, cnp.ndarray other, str other_name)
cdef cnp.ndarray float32_vector(object a, str name, ptrdiff_t n)
cdef cnp.ndarray int64_vector(object a, str name)
cdef cnp.ndarray per_sample(object a, str name, int dtype, ptrdiff_t n, ptrdiff_t k)
cdef cnp.ndarray float64_statistics(object a, str name, int ndim, cnp.npy_intp *shape)
cdef bint is_channels_last(cnp.ndarray x, object channel_axis) except -1
cdef cnp.ndarray writable(cnp.ndarray a, str name)
cdef cnp.ndarray output(object out, cnp.ndarray like, str name)
cdef int refuse_overlap(cnp.ndarray out, str out_name, cnp.ndarray a, str name, bint same_is_fine) except -1

# Fresh arrays, and the data pointers of optional ones (None: NULL).
cdef cnp.ndarray new_array(int ndim, cnp.npy_intp *shape, int dtype)
cdef cnp.ndarray new_vector(ptrdiff_t n, int dtype)
cdef float *floats(cnp.ndarray a) noexcept
cdef double *doubles(cnp.ndarray a) noexcept

# Checked numbers: within [low, high], never NaN. DBL_MAX as high: any finite one.
cdef double number(object value, str name, double low, double high) except? -1
cdef float float32_number(object value, str name, double low, double high) except? -1
cdef uint64_t unsigned64(object value, str name) except? 0xFFFFFFFFFFFFFFFF
