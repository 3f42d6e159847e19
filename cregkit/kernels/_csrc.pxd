# The C contract, as csrc/cregkit.h has it. setup.py makes the table's declaration from csrc/kernels.def.
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

ctypedef float *float_p
ctypedef const float *const_float_p
ctypedef double *double_p
ctypedef const double *const_double_p

cdef extern from "cregkit.h" nogil:
    const int CREG_PANEL
    const int CREG_CHUNK_ROWS
    const int CREG_WIDE_ROWS
    const int CREG_TILE
    const int CREG_TASK
    const int CREG_DROPOUT_GROUP
    const int CREG_NOISE_GROUP
    const int CREG_NEAR
    const int CREG_FAR
    const int CREG_STREAM

    ctypedef struct creg_shape:
        ptrdiff_t n, c, s

    ctypedef struct creg_channels:
        float_p hi, lo, scale, bias, k1, k2
        double_p mean64, scale64, k1_64, k2_64
        unsigned char *exact

    ctypedef struct creg_cut:
        ptrdiff_t chunks, tasks

    ctypedef struct creg_batch:
        creg_shape shape
        int where, shared, whole
        creg_cut summed, written, channelwise
        const_float_p x, gamma, given_mean, given_var
        double_p mean, rstd
        double eps, count
        creg_channels channels

    ctypedef struct creg_batch_norm:
        creg_batch batch
        const_float_p beta
        float_p y, running_mean, running_var
        double_p chunk_mean, chunk_m2, var
        double momentum
        int unbiased

    ctypedef struct creg_batch_norm_grad:
        creg_batch batch
        const_float_p dy
        float_p dx, chunk_dy, chunk_dy_d, dgamma, dbeta

    ctypedef struct creg_images:
        ptrdiff_t n, block, planes, height, width, pixel, size, crop_height, crop_width, crop_size
        const_float_p x, other
        float_p y
        const int64_t *whole
        const_float_p factors
        const_double_p degrees
        float fill
        int channels_last, reflect, strange

    ctypedef struct creg_dropout:
        uint32_t key[2]
        uint16_t threshold
        uint32_t tie
        float scale

    const int CREG_DRAWS
    const int CREG_KEEPS_ALL
    const int CREG_DROPS_ALL

    ctypedef struct creg_dropout_items:
        creg_dropout dropout
        int decides, stream
        const_float_p x
        float_p y
        unsigned char *keep
        uint64_t first
        ptrdiff_t n, size, block, lead

    ctypedef struct creg_l2:
        const_float_p w
        float_p dw
        double_p panels
        ptrdiff_t n, n_panels, block
        double weight_decay, penalty
        int stream

    ctypedef struct creg_sgd:
        float_p w, velocity
        const_float_p dw
        ptrdiff_t n, block
        float lr, weight_decay, momentum

    ctypedef struct creg_adamw:
        float_p w, m, v
        const_float_p dw
        ptrdiff_t n, block
        int64_t step
        double lr, weight_decay
        double betas[2]
        int decoupled
        float eps

    ctypedef struct creg_noise:
        uint32_t key[2]
        const int64_t *index
        const_float_p x, sigma
        float_p y
        double_p uniform
        ptrdiff_t samples, size, block, pieces

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
