# Weight decay and the fused optimiser steps: checks and the loops over tasks, which are the kernels of
# csrc/optimizer.h.
cimport numpy as cnp
from libc.float cimport DBL_MAX, FLT_MAX, FLT_MIN
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport (
    doubles, float32_array, float32_like, float32_number, floats, new_vector, number, output, refuse_overlap,
    refuse_overlaps, whole_number, writable,
)
from cregkit.kernels._csrc cimport (
    creg_adamw, creg_l2, creg_max_norm, creg_modifiers, CREG_PANEL, creg_sgd, CREG_TASK,
)
from cregkit.kernels._runtime cimport kernels, streams
from cregkit.kernels._threads cimport block_task, parallel_for, run_task

cnp.import_array()


# Runs a kernel over n elements, in tasks of CREG_TASK elements.
cdef void run(block_task kernel, void *record, ptrdiff_t n) noexcept:
    with nogil:
        parallel_for(kernel, record, (n + CREG_TASK - 1) // CREG_TASK, n)


# weight_decay / 2 times the sum of squares of the elements, clipped unless clipvalue is 0.
cdef double half_squares(cnp.ndarray w, double weight_decay, float clipvalue):
    cdef creg_l2 a
    memset(&a, 0, sizeof(a))
    a.weight_decay, a.clipvalue = weight_decay, clipvalue
    a.w, a.n = floats(w), cnp.PyArray_SIZE(w)
    a.n_panels = (a.n + CREG_PANEL - 1) // CREG_PANEL
    cdef cnp.ndarray panels = new_vector(a.n_panels, cnp.NPY_FLOAT64)
    a.panels = doubles(panels)
    with nogil:
        parallel_for(kernels().sum_squares, &a, a.n_panels, a.n)
        run_task(kernels().l2_penalty, &a, 0)
    return a.penalty


# 0, which means no limit, if clipvalue is None.
cdef float clip_limit(object clipvalue) except? -1:
    return 0.0 if clipvalue is None else float32_number(clipvalue, "clipvalue", FLT_MIN, FLT_MAX)


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
    return half_squares(float32_array(w, "w"), number(weight_decay, "weight_decay", 0.0, DBL_MAX), 0.0)


def sum_squares(x, *, clipvalue=None):
    """Sum of the squares of all elements, which are first clipped to ``[-clipvalue, clipvalue]`` if that is given.

    The norm of gradients is the root of the sum over all of them. The sum is NaN or infinite if and only if an element
    is not finite.

    Parameters
    ----------
    x : float32 array of any shape, C-contiguous
    clipvalue : float, optional
        At least the smallest normal float32, 2**-126.

    Returns
    -------
    total : float

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype or layout, or a bad ``clipvalue``.

    References
    ----------
    Pascanu, R., Mikolov, T. and Bengio, Y. (2013). "On the difficulty of training recurrent neural networks". ICML.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> gradient = np.array([3, -4], np.float32)
    >>> cregkit.sum_squares(gradient), cregkit.sum_squares(gradient, clipvalue=1)
    (25.0, 2.0)
    """
    return half_squares(float32_array(x, "x"), 2.0, clip_limit(clipvalue))


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


# The numbers from which a task makes the modifiers' constants: tasks round to nearest, in any mode of the caller.
cdef struct Modifying:
    creg_modifiers *modifiers
    double lr, l1, ema_momentum


# The average moves from the nearer of its ends: see csrc/optimizer.h.
cdef void constants_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const Modifying *a = <const Modifying *>args
    cdef creg_modifiers *m = a.modifiers
    m.threshold = <float>(a.lr * a.l1)
    m.from_weights = a.ema_momentum < 0.5
    m.share = <float>(a.ema_momentum if m.from_weights else 1.0 - a.ema_momentum)


cdef int set_average(creg_modifiers *m, cnp.ndarray average, object ema_momentum, double lr, double l1) except -1:
    cdef Modifying a = Modifying(m, lr, l1, number(ema_momentum, "ema_momentum", 0.0, 1.0))
    m.average = floats(average)
    run_task(constants_task, &a, 0)
    return 0


cdef int set_modifiers(creg_modifiers *m, object clipvalue, object scale, double lr, object l1, cnp.ndarray average,
                       object ema_momentum) except -1:
    m.clipvalue, m.scale = clip_limit(clipvalue), float32_number(scale, "scale", 0.0, FLT_MAX)
    set_average(m, average, ema_momentum, lr, number(l1, "l1", 0.0, FLT_MAX))
    m.any = m.clipvalue > 0.0 or m.scale != 1.0 or m.threshold > 0.0 or average is not None
    return 0


def sgd_step(w, dw, lr, *, weight_decay=0.0, momentum=0.0, velocity=None, clipvalue=None, scale=1.0, l1=0.0,
             average=None, ema_momentum=0.99):
    """One step of stochastic gradient descent, in place.

    ``g = dw + weight_decay * w``, ``velocity = momentum * velocity + g``, ``w -= lr * velocity``; without ``velocity``,
    ``w -= lr * g``.

    The same pass over memory first replaces ``dw`` by ``scale * clip(dw, -clipvalue, clipvalue)``, and at last sets
    ``w = sign(w) * max(abs(w) - lr * l1, 0)`` and ``average = ema_momentum * average + (1 - ema_momentum) * w``.

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
    clipvalue : float, optional
        Limit of the magnitude of each element of ``dw``, at least 2**-126.
    scale : float
        Factor of the clipped gradient, at least 0, which limits the norm of all gradients.
    l1 : float
        Factor of the L1 penalty, at least 0. Weights that it takes to 0 are exactly 0.
    average : float32 array like ``w``, optional
        Exponential moving average of ``w``, changed in place.
    ema_momentum : float
        Share of the old average in the new one, 0 to 1.

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, read-only or overlapping arrays, or a bad number. Nothing is changed then.

    References
    ----------
    Sutskever, I., Martens, J., Dahl, G. and Hinton, G. (2013). "On the importance of initialization and momentum in
    deep learning". ICML.
    Parikh, N. and Boyd, S. (2014). "Proximal Algorithms" (the step of the L1 penalty).

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
    cdef cnp.ndarray velocity_ = None, average_ = None
    if velocity is not None:
        velocity_ = updated(velocity, "velocity", w_, ((w_, "w"), (dw_, "dw")))
    if average is not None:
        others = ((w_, "w"), (dw_, "dw")) if velocity is None else ((w_, "w"), (dw_, "dw"), (velocity_, "velocity"))
        average_ = updated(average, "average", w_, others)
    cdef creg_sgd a
    memset(&a, 0, sizeof(a))
    a.lr = float32_number(lr, "lr", 0.0, FLT_MAX)
    a.weight_decay = float32_number(weight_decay, "weight_decay", 0.0, FLT_MAX)
    a.momentum = float32_number(momentum, "momentum", 0.0, 1.0)
    if a.momentum > 0.0 and velocity is None:
        raise ValueError(f"velocity is missing: momentum {momentum} needs it; pass zeros like w before the first step")
    set_modifiers(&a.modifiers, clipvalue, scale, number(lr, "lr", 0.0, FLT_MAX), l1, average_, ema_momentum)
    a.w, a.dw, a.velocity, a.n, a.block = floats(w_), floats(dw_), floats(velocity_), cnp.PyArray_SIZE(w_), CREG_TASK
    run(kernels().sgd_step, &a, a.n)


cdef double beta_of(object beta_, str name) except? -1:
    cdef double beta = number(beta_, name, 0.0, 1.0)
    if beta == 1.0:
        raise ValueError(f"{name} must be less than 1, or nothing new would ever count, got {beta_}")
    return beta


def adamw_step(w, dw, m, v, step, lr, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decoupled=True,
               clipvalue=None, scale=1.0, l1=0.0, average=None, ema_momentum=0.99):
    """One step of AdamW, or of Adam with L2 in its gradient, in place.

    Decoupled: ``w *= 1 - lr * weight_decay`` and ``g = dw``; else ``g = dw + weight_decay * w``. Then
    ``m = beta1 * m + (1 - beta1) * g``, ``v = beta2 * v + (1 - beta2) * g**2``,
    ``w -= lr / (1 - beta1**step) * m / (sqrt(v) / sqrt(1 - beta2**step) + eps)``.

    The same pass over memory first replaces ``dw`` by ``scale * clip(dw, -clipvalue, clipvalue)``, and at last sets
    ``w = sign(w) * max(abs(w) - lr * l1, 0)`` and ``average = ema_momentum * average + (1 - ema_momentum) * w``.

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
    clipvalue : float, optional
        Limit of the magnitude of each element of ``dw``, at least 2**-126.
    scale : float
        Factor of the clipped gradient, at least 0, which limits the norm of all gradients.
    l1 : float
        Factor of the L1 penalty, at least 0. Weights that it takes to 0 are exactly 0.
    average : float32 array like ``w``, optional
        Exponential moving average of ``w``, changed in place.
    ema_momentum : float
        Share of the old average in the new one, 0 to 1.

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, read-only or overlapping arrays, or a bad number. Nothing is changed then.

    References
    ----------
    Loshchilov, I. and Hutter, F. (2019). "Decoupled Weight Decay Regularization". arXiv:1711.05101.
    Kingma, D. P. and Ba, J. (2015). "Adam: A Method for Stochastic Optimization". arXiv:1412.6980.
    Parikh, N. and Boyd, S. (2014). "Proximal Algorithms" (the step of the L1 penalty).

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
    cdef cnp.ndarray average_ = None
    if average is not None:
        average_ = updated(average, "average", w_, ((w_, "w"), (dw_, "dw"), (m_, "m"), (v_, "v")))
    cdef creg_adamw a
    memset(&a, 0, sizeof(a))
    a.lr, a.weight_decay = number(lr, "lr", 0.0, FLT_MAX), number(weight_decay, "weight_decay", 0.0, FLT_MAX)
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas must be a pair of numbers, got {betas!r}")
    a.betas[0], a.betas[1] = beta_of(betas[0], "betas[0]"), beta_of(betas[1], "betas[1]")
    count = whole_number(step, "step")
    if not 1 <= count < 1 << 63:
        raise ValueError(f"step must be from 1 (the first step) to 2**63 - 1, got {count}")
    set_modifiers(&a.modifiers, clipvalue, scale, a.lr, l1, average_, ema_momentum)
    a.step, a.decoupled, a.eps = count, bool(decoupled), float32_number(eps, "eps", 0.0, FLT_MAX)
    a.w, a.dw, a.m, a.v, a.n, a.block = (
        floats(w_), floats(dw_), floats(m_), floats(v_), cnp.PyArray_SIZE(w_), CREG_TASK)
    run_task(kernels().adamw_constants, &a, 0)
    run(kernels().adamw_step, &a, a.n)


def max_norm(w, max_value, *, average=None, ema_momentum=0.99):
    """Limit the norm of the incoming weights of each unit, in place: ``w[i] *= min(1, max_value / norm(w[i]))``.

    No norm exceeds ``max_value`` then, and a second call changes nothing: the factor leaves room for the roundings. A
    unit whose weights are not all finite stays as it is. The same pass over memory then moves ``average``, as a step
    does.

    Parameters
    ----------
    w : float32 array, shape (units, ...), C-contiguous
        Weights, such as those of ``Linear``; changed in place.
    max_value : float
        Largest norm, at least 2**-126.
    average : float32 array like ``w``, optional
        Exponential moving average of ``w``, changed in place.
    ema_momentum : float
        Share of the old average in the new one, 0 to 1.

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, read-only or overlapping arrays, or a bad number. Nothing is changed then.

    References
    ----------
    Srivastava, N., Hinton, G., Krizhevsky, A., Sutskever, I. and Salakhutdinov, R. (2014). "Dropout: A Simple Way to
    Prevent Neural Networks from Overfitting". JMLR 15.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> w = np.array([[3, 4], [0, 2]], np.float32)
    >>> cregkit.max_norm(w, 2.5)
    >>> w.round(6)
    array([[1.5, 2. ],
           [0. , 2. ]], dtype=float32)
    """
    cdef cnp.ndarray w_ = writable(float32_array(w, "w"), "w"), average_ = None
    if w_.ndim < 2:
        raise ValueError(f"w must have shape (units, ...) with at least two axes, got shape {(<object>w_).shape}")
    if average is not None:
        average_ = updated(average, "average", w_, ((w_, "w"),))
    cdef creg_max_norm a
    memset(&a, 0, sizeof(a))
    a.limit = number(max_value, "max_value", FLT_MIN, FLT_MAX)
    set_average(&a.modifiers, average_, ema_momentum, 0.0, 0.0)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(w_)
    a.w, a.rows = floats(w_), w_.shape[0]
    a.cols = n // max(1, a.rows)
    a.block = max(1, CREG_TASK // max(1, a.cols))
    with nogil:
        parallel_for(kernels().limit_norms, &a, (a.rows + a.block - 1) // a.block, n)
