# Weight decay and the fused optimiser steps: checks and the loop over blocks. The maths is in csrc/optimizer.h.
import operator

cimport numpy as cnp
from libc.float cimport DBL_MAX, FLT_MAX
from libc.math cimport sqrt
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._runtime cimport (
    CREG_PANEL, creg_adamw, creg_sgd, doubles, float32_array, float32_like, float32_number, floats, kernels,
    new_vector, number, output, refuse_overlap, streams, writable,
)
from cregkit.kernels._threads cimport parallel_for, run_task

cnp.import_array()

cdef enum:
    TASK_ELEMENTS = 16384


cdef struct Elements:
    const float *x
    float *y
    double *panels
    double penalty
    ptrdiff_t n, n_panels
    float factor
    int stream


cdef void squares_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Elements *a = <Elements *>args
    cdef ptrdiff_t i = task * CREG_PANEL
    a.panels[task] = kernels().sum_squares(a.x + i, min(<ptrdiff_t>CREG_PANEL, a.n - i))


# From weight_decay to the penalty.
cdef void penalty_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Elements *a = <Elements *>args
    cdef double total = 0.0
    cdef ptrdiff_t i
    for i in range(a.n_panels):
        total += a.panels[i]
    a.penalty = a.penalty * 0.5 * total


def l2_penalty(w, weight_decay):
    """The L2 penalty ``weight_decay / 2 * sum(w**2)``, which a loss adds to itself.

    Parameters
    ----------
    w : float32 array of any shape, C-contiguous
    weight_decay : float
        Finite, at least 0.

    Returns
    -------
    penalty : float

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype or layout, or a bad ``weight_decay``.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> ck.l2_penalty(np.array([1, 2, 3], np.float32), 0.5)
    3.5
    """
    cdef cnp.ndarray w_ = float32_array(w, "w")
    cdef Elements a
    a.penalty = number(weight_decay, "weight_decay", 0.0, DBL_MAX)
    a.x, a.n = floats(w_), cnp.PyArray_SIZE(w_)
    a.n_panels = (a.n + CREG_PANEL - 1) // CREG_PANEL
    cdef cnp.ndarray panels = new_vector(a.n_panels, cnp.NPY_FLOAT64)
    a.panels = doubles(panels)
    with nogil:
        parallel_for(squares_task, &a, a.n_panels, a.n)
        run_task(penalty_task, &a, 0)
    return a.penalty


cdef void scale_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Elements *a = <Elements *>args
    cdef ptrdiff_t i = task * TASK_ELEMENTS
    kernels().scale(a.x + i, a.y + i, min(<ptrdiff_t>TASK_ELEMENTS, a.n - i), a.factor, a.stream)


def l2_gradient(w, weight_decay, *, out=None):
    """Gradient of :func:`l2_penalty`: ``dw = weight_decay * w``.

    Parameters
    ----------
    w : float32 array of any shape, C-contiguous
    weight_decay : float
        Finite in float32, at least 0.
    out : float32 array like ``w``, optional
        Receives ``dw``; may be ``w`` itself.

    Returns
    -------
    dw : float32 array like ``w``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype or layout, a read-only or overlapping ``out``, or a bad ``weight_decay``.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> ck.l2_gradient(np.array([1, 2, 3], np.float32), 0.5)
    array([0.5, 1. , 1.5], dtype=float32)
    """
    cdef cnp.ndarray w_ = float32_array(w, "w")
    cdef Elements a
    a.factor = float32_number(weight_decay, "weight_decay", 0.0, FLT_MAX)
    cdef cnp.ndarray dw = output(out, w_, "w")
    a.x, a.y, a.n, a.stream = floats(w_), floats(dw), cnp.PyArray_SIZE(w_), streams(cnp.PyArray_SIZE(w_), 2)
    with nogil:
        parallel_for(scale_task, &a, (a.n + TASK_ELEMENTS - 1) // TASK_ELEMENTS, a.n)
    return dw


cdef struct Sgd:
    float *w
    const float *dw
    float *velocity
    ptrdiff_t n
    creg_sgd step


cdef void sgd_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Sgd *a = <Sgd *>args
    cdef ptrdiff_t i = task * TASK_ELEMENTS
    kernels().sgd_step(a.w + i, a.dw + i, a.velocity + i if a.velocity != NULL else NULL,
                       min(<ptrdiff_t>TASK_ELEMENTS, a.n - i), &a.step)


# An array that a step changes in place, apart from the others it reads or changes.
cdef cnp.ndarray updated(object a, str name, cnp.ndarray w, tuple others):
    cdef cnp.ndarray x = writable(float32_like(a, name, w, "w"), name)
    for other, other_name in others:
        refuse_overlap(x, name, other, other_name, False)
    return x


def sgd_step(w, dw, lr, *, weight_decay=0.0, momentum=0.0, velocity=None):
    """One step of stochastic gradient descent, in place.

    ``g = dw + weight_decay * w``, ``velocity = momentum * velocity + g``, ``w -= lr * velocity``; without ``velocity``,
    ``w -= lr * g``.

    Parameters
    ----------
    w : float32 array of any shape, C-contiguous
        Changed in place.
    dw : float32 array like ``w``
    lr, weight_decay : float
        Finite in float32, at least 0.
    momentum : float
        0 to 1. More than 0 needs ``velocity``.
    velocity : float32 array like ``w``, optional
        Changed in place; zeros before the first step.

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, read-only or overlapping arrays, or a bad number. Nothing is changed then.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> w, dw = np.array([1, 2], np.float32), np.array([0.5, -0.5], np.float32)
    >>> ck.sgd_step(w, dw, lr=1.0)
    >>> w
    array([0.5, 2.5], dtype=float32)
    """
    cdef cnp.ndarray w_ = writable(float32_array(w, "w"), "w"), dw_ = float32_like(dw, "dw", w_, "w")
    refuse_overlap(w_, "w", dw_, "dw", False)
    cdef cnp.ndarray velocity_ = None
    if velocity is not None:
        velocity_ = updated(velocity, "velocity", w_, ((w_, "w"), (dw_, "dw")))
    cdef Sgd a
    a.step.lr = float32_number(lr, "lr", 0.0, FLT_MAX)
    a.step.weight_decay = float32_number(weight_decay, "weight_decay", 0.0, FLT_MAX)
    a.step.momentum = float32_number(momentum, "momentum", 0.0, 1.0)
    if a.step.momentum > 0.0 and velocity is None:
        raise ValueError(f"velocity is missing: momentum {momentum} needs it; pass zeros like w before the first step")
    a.w, a.dw, a.velocity, a.n = floats(w_), floats(dw_), floats(velocity_), cnp.PyArray_SIZE(w_)
    with nogil:
        parallel_for(sgd_task, &a, (a.n + TASK_ELEMENTS - 1) // TASK_ELEMENTS, a.n)


cdef struct AdamW:
    float *w
    const float *dw
    float *m
    float *v
    ptrdiff_t n
    ptrdiff_t t
    double rate, decay, beta1, beta2
    bint decoupled
    creg_adamw step


# base**n by squaring: only products, each correctly rounded, so the same bits with any maths library.
cdef double power(double base, ptrdiff_t n) noexcept nogil:
    cdef double result = 1.0
    while n > 0:
        if n & 1:
            result *= base
        base *= base
        n >>= 1
    return result


# From the arguments to the constants of this step.
cdef void adamw_constants_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef AdamW *a = <AdamW *>args
    a.step.shrink = <float>(1.0 - a.rate * a.decay) if a.decoupled else 1.0
    a.step.l2 = 0.0 if a.decoupled else <float>a.decay
    a.step.beta1, a.step.one_minus_beta1 = <float>a.beta1, <float>(1.0 - a.beta1)
    a.step.beta2, a.step.one_minus_beta2 = <float>a.beta2, <float>(1.0 - a.beta2)
    a.step.step_size = <float>(a.rate / (1.0 - power(a.beta1, a.t)))
    a.step.inv_sqrt_bias2 = <float>(1.0 / sqrt(1.0 - power(a.beta2, a.t)))


cdef void adamw_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef AdamW *a = <AdamW *>args
    cdef ptrdiff_t i = task * TASK_ELEMENTS
    kernels().adamw_step(a.w + i, a.dw + i, a.m + i, a.v + i, min(<ptrdiff_t>TASK_ELEMENTS, a.n - i), &a.step)


cdef double beta_of(object beta_, str name) except? -1:
    cdef double beta = number(beta_, name, 0.0, 1.0)
    if beta == 1.0:
        raise ValueError(f"{name} must be less than 1, or nothing new would ever count, got {beta_}")
    return beta


def adamw_step(w, dw, m, v, step, lr, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decoupled=True):
    """One step of AdamW, or of Adam with L2 in its gradient, in place.

    Decoupled: ``w *= 1 - lr * weight_decay`` and ``g = dw``; else ``g = dw + weight_decay * w``. Then
    ``m = beta1 * m + (1 - beta1) * g``, ``v = beta2 * v + (1 - beta2) * g**2``,
    ``w -= lr / (1 - beta1**step) * m / (sqrt(v) / sqrt(1 - beta2**step) + eps)``.

    Parameters
    ----------
    w, m, v : float32 arrays of one shape, C-contiguous
        Weights, first and second moments, changed in place; the moments are zeros before the first step.
    dw : float32 array like ``w``
    step : int
        Number of this step, from 1.
    lr, eps, weight_decay : float
        Finite in float32, at least 0.
    betas : pair of float
        Decay of the moments, each at least 0 and below 1.
    decoupled : bool
        Weight decay apart from the gradient (AdamW) or as L2 within it (Adam).

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, read-only or overlapping arrays, or a bad number. Nothing is changed then.

    Loshchilov and Hutter (2019), "Decoupled Weight Decay Regularization", arXiv:1711.05101; Kingma and Ba (2015),
    "Adam: A Method for Stochastic Optimization", arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> w, dw = np.array([1, 2], np.float32), np.array([0.5, -0.5], np.float32)
    >>> m, v = np.zeros_like(w), np.zeros_like(w)
    >>> ck.adamw_step(w, dw, m, v, step=1, lr=0.1, weight_decay=0.0)
    >>> w.round(3)
    array([0.9, 2.1], dtype=float32)
    """
    cdef cnp.ndarray w_ = writable(float32_array(w, "w"), "w"), dw_ = float32_like(dw, "dw", w_, "w")
    refuse_overlap(w_, "w", dw_, "dw", False)
    cdef cnp.ndarray m_ = updated(m, "m", w_, ((w_, "w"), (dw_, "dw")))
    cdef cnp.ndarray v_ = updated(v, "v", w_, ((w_, "w"), (dw_, "dw"), (m_, "m")))
    cdef AdamW a
    a.rate, a.decay = number(lr, "lr", 0.0, FLT_MAX), number(weight_decay, "weight_decay", 0.0, FLT_MAX)
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas must be a pair of numbers, got {betas!r}")
    a.beta1, a.beta2, a.decoupled = beta_of(betas[0], "betas[0]"), beta_of(betas[1], "betas[1]"), decoupled
    try:
        count = operator.index(step)
    except TypeError:
        raise TypeError(f"step must be a whole number, got {type(step).__name__}") from None
    if not 1 <= count < 1 << 63:
        raise ValueError(f"step must be from 1 (the first step) to 2**63 - 1, got {count}")
    a.t = count
    a.step.eps = float32_number(eps, "eps", 0.0, FLT_MAX)
    a.w, a.dw, a.m, a.v, a.n = floats(w_), floats(dw_), floats(m_), floats(v_), cnp.PyArray_SIZE(w_)
    with nogil:
        run_task(adamw_constants_task, &a, 0)
        parallel_for(adamw_task, &a, (a.n + TASK_ELEMENTS - 1) // TASK_ELEMENTS, a.n)
