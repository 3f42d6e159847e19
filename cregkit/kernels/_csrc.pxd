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

    const int CREG_LAYER_NORM
    const int CREG_RMS_NORM

    ctypedef struct creg_wide_row:
        double mean, rstd, mean_g, mean_g_x_hat
        int exact

    ctypedef struct creg_norm:
        int kind, stream
        ptrdiff_t rows, cols, step
        double eps
        const float *gamma
        const float *beta
        const float *x
        const float *residual
        const float *dy
        const float *dh
        float *y
        float *h
        float *dx
        float *dropped
        double *mean
        double *rstd
        const creg_dropout *dropout
        uint64_t offset
        float *partial_dgamma
        float *partial_dbeta
        float *dgamma
        float *dbeta
        unsigned char *exact
        double *panel_sums
        creg_wide_row *wide

include "_kernels.pxi"
