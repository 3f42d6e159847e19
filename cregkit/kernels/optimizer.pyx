# Weight decay and the fused optimiser steps: checks and the loops over tasks, which are the kernels of
# csrc/optimizer.h.
cimport numpy as cnp
from libc.float cimport DBL_MAX, FLT_MAX
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport (
    doubles, float32_array, float32_like, float32_number, floats, new_vector, number, output, refuse_overlap,
    refuse_overlaps, whole_number, writable,
)
from cregkit.kernels._csrc cimport creg_adamw, creg_l2, CREG_PANEL, creg_sgd, CREG_TASK
from cregkit.kernels._runtime cimport kernels, streams
from cregkit.kernels._threads cimport block_task, parallel_for, run_task

cnp.import_array()


# Runs a kernel over n elements, in tasks of CREG_TASK elements.
cdef void run(block_task kernel, void *record, ptrdiff_t n) noexcept:
    with nogil:
        parallel_for(kernel, record, (n + CREG_TASK - 1) // CREG_TASK, n)


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

    References
    ----------
    Krogh, A. and Hertz, J. A. (1992). "A Simple Weight Decay Can Improve Generalization". NIPS 4.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> cregkit.l2_penalty(np.array([1, -2], np.float32), 0.5)
    1.25
    """
    cdef cnp.ndarray w_ = float32_array(w, "w")
    cdef creg_l2 a
    memset(&a, 0, sizeof(a))
    a.weight_decay = number(weight_decay, "weight_decay", 0.0, DBL_MAX)
    a.w, a.n = floats(w_), cnp.PyArray_SIZE(w_)
    a.n_panels = (a.n + CREG_PANEL - 1) // CREG_PANEL
    cdef cnp.ndarray panels = new_vector(a.n_panels, cnp.NPY_FLOAT64)
    a.panels = doubles(panels)
    with nogil:
        parallel_for(kernels().sum_squares, &a, a.n_panels, a.n)
        run_task(kernels().l2_penalty, &a, 0)
    return a.penalty


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

    References
    ----------
    Krogh, A. and Hertz, J. A. (1992). "A Simple Weight Decay Can Improve Generalization". NIPS 4.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> cregkit.l2_gradient(np.array([1, -2], np.float32), 0.5)
    array([ 0.5, -1. ], dtype=float32)
    """
    cdef cnp.ndarray w_ = float32_array(w, "w")
    cdef creg_l2 a
    memset(&a, 0, sizeof(a))
    a.weight_decay = float32_number(weight_decay, "weight_decay", 0.0, FLT_MAX)
    cdef cnp.ndarray dw = output(out, w_, "w")
    a.w, a.dw, a.n, a.block = floats(w_), floats(dw), cnp.PyArray_SIZE(w_), CREG_TASK
    a.stream = streams(2 * a.n * <ptrdiff_t>sizeof(float))
    run(kernels().l2_gradient, &a, a.n)
    return dw


# A checked array that a step changes in place. It must not overlap the others that the step reads or changes.
cdef cnp.ndarray updated(object a, str name, cnp.ndarray w, tuple others):
    cdef cnp.ndarray x = writable(float32_like(a, name, w, "w"), name)
    refuse_overlaps(x, name, others)
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

    References
    ----------
    Sutskever, I., Martens, J., Dahl, G. and Hinton, G. (2013). "On the importance of initialization and momentum in
    deep learning". ICML.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> w, dw = np.array([1, -2], np.float32), np.array([2, 4], np.float32)
    >>> cregkit.sgd_step(w, dw, 0.5)
    >>> w
    array([ 0., -4.], dtype=float32)
    """
    cdef cnp.ndarray w_ = writable(float32_array(w, "w"), "w"), dw_ = float32_like(dw, "dw", w_, "w")
    refuse_overlap(w_, "w", dw_, "dw", False)
    cdef cnp.ndarray velocity_ = None
    if velocity is not None:
        velocity_ = updated(velocity, "velocity", w_, ((w_, "w"), (dw_, "dw")))
    cdef creg_sgd a
    memset(&a, 0, sizeof(a))
    a.lr = float32_number(lr, "lr", 0.0, FLT_MAX)
    a.weight_decay = float32_number(weight_decay, "weight_decay", 0.0, FLT_MAX)
    a.momentum = float32_number(momentum, "momentum", 0.0, 1.0)
    if a.momentum > 0.0 and velocity is None:
        raise ValueError(f"velocity is missing: momentum {momentum} needs it; pass zeros like w before the first step")
    a.w, a.dw, a.velocity, a.n, a.block = floats(w_), floats(dw_), floats(velocity_), cnp.PyArray_SIZE(w_), CREG_TASK
    run(kernels().sgd_step, &a, a.n)


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

    References
    ----------
    Loshchilov, I. and Hutter, F. (2019). "Decoupled Weight Decay Regularization". arXiv:1711.05101.
    Kingma, D. P. and Ba, J. (2015). "Adam: A Method for Stochastic Optimization". arXiv:1412.6980.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> w, dw = np.array([1, -2], np.float32), np.array([2, 4], np.float32)
    >>> m, v = np.zeros(2, np.float32), np.zeros(2, np.float32)
    >>> cregkit.adamw_step(w, dw, m, v, 1, 0.5, betas=(0.5, 0.75), eps=0, weight_decay=0)
    >>> w, m, v
    (array([ 0.5, -2.5], dtype=float32), array([1., 2.], dtype=float32), array([1., 4.], dtype=float32))
    """
    cdef cnp.ndarray w_ = writable(float32_array(w, "w"), "w"), dw_ = float32_like(dw, "dw", w_, "w")
    refuse_overlap(w_, "w", dw_, "dw", False)
    cdef cnp.ndarray m_ = updated(m, "m", w_, ((w_, "w"), (dw_, "dw")))
    cdef cnp.ndarray v_ = updated(v, "v", w_, ((w_, "w"), (dw_, "dw"), (m_, "m")))
    cdef creg_adamw a
    memset(&a, 0, sizeof(a))
    a.lr, a.weight_decay = number(lr, "lr", 0.0, FLT_MAX), number(weight_decay, "weight_decay", 0.0, FLT_MAX)
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas must be a pair of numbers, got {betas!r}")
    a.betas[0], a.betas[1] = beta_of(betas[0], "betas[0]"), beta_of(betas[1], "betas[1]")
    count = whole_number(step, "step")
    if not 1 <= count < 1 << 63:
        raise ValueError(f"step must be from 1 (the first step) to 2**63 - 1, got {count}")
    a.step, a.decoupled, a.eps = count, bool(decoupled), float32_number(eps, "eps", 0.0, FLT_MAX)
    a.w, a.dw, a.m, a.v, a.n, a.block = (
        floats(w_), floats(dw_), floats(m_), floats(v_), cnp.PyArray_SIZE(w_), CREG_TASK)
    run_task(kernels().adamw_constants, &a, 0)
    run(kernels().adamw_step, &a, a.n)
