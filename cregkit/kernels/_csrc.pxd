# The C contract, as csrc/cregkit.h has it. setup.py makes the table's declaration from csrc/kernels.def.
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

    ctypedef struct creg_cut:
        ptrdiff_t chunks, tasks

    ctypedef struct creg_batch:
        creg_shape shape
        int where, shared, whole
        creg_cut summed, written, channelwise
        const float *x
        const float *gamma
        const float *given_mean
        const float *given_var
        double *mean
        double *rstd
        double eps, count
        creg_channels channels

    ctypedef struct creg_batch_norm:
        creg_batch batch
        const float *beta
        float *y
        float *running_mean
        float *running_var
        double *chunk_mean
        double *chunk_m2
        double *var
        double momentum
        int unbiased

    ctypedef struct creg_batch_norm_grad:
        creg_batch batch
        const float *dy
        float *dx
        float *chunk_dy
        float *chunk_dy_d
        float *dgamma
        float *dbeta

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

include "_kernels.pxi"
