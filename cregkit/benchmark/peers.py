"""Other libraries behind one interface: availability, and their version of an op on the arguments of a case.

A library is imported when its adapter is constructed. Each runs at its best: low-level functions, no autograd where it
is not needed, inputs and outputs bound in advance for ONNX Runtime, compiled functions for JAX. All use as many threads
as cregkit (JAX sizes its pool by the available cores). Only PyTorch is measured with 16-bit tensors.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit import functional, oracle
from cregkit.kernels._threads import num_threads
from cregkit.oracle.dropout import ALPHA
from cregkit.verify.cases import Case
from cregkit.verify.dtypes import FLOAT32, SUMS, widened
from cregkit.verify.inputs import Arguments
from cregkit.verify.tolerances import largest

Results = dict[str, NDArray[Any]]

SLACK = 1e-4
"""Tolerance of a peer against the oracle, relative to the largest magnitude: float32 sums of 1e5 values, any order."""
ROUNDINGS = 4
"""Roundings of a peer to the type of 16-bit tensors, one after another."""

ORACLE_ELEMENTS = 1 << 20
"""Largest size at which the oracle is timed; above it, a call takes seconds."""


class Prepared(NamedTuple):
    """An op ready to run: the call to time, and a function that maps its results to the names of the case.

    ``read`` is valid after the first call only: an in-place op changes its arrays in every call. ``random`` means that
    the peer draws its own dropout mask.
    """

    call: Callable[[], Any]
    read: Callable[[Any], Results]
    random: bool = False


class Peer(ABC):
    """A library to compare with; an instance computes on ``n_threads`` threads."""

    name: ClassVar[str]
    package: ClassVar[str]
    pool: ClassVar[str]
    """Name of the thread pool; peers with equal names share one."""
    takes_16_bits: ClassVar[bool] = False
    """Whether it is measured with 16-bit tensors."""

    def __init__(self, n_threads: int) -> None:
        """Import the library."""
        self._n_threads = n_threads

    @classmethod
    def available(cls) -> bool:
        """Return whether the package is installed."""
        return importlib.util.find_spec(cls.package) is not None

    @property
    def version(self) -> str:
        """The version of the package."""
        return str(importlib.import_module(self.package).__version__)

    @abstractmethod
    def prepare(self, case: Case, arguments: Arguments) -> Prepared | None:
        """Prepare the case's op on these arguments without changing them; return None if the peer lacks the op."""


class Oracle(Peer):
    """The NumPy specification, in float64."""

    name = "oracle"
    package = "numpy"
    pool = "openmp"  # has no threads

    def prepare(self, case: Case, arguments: Arguments) -> Prepared | None:
        """Prepare any op up to ``ORACLE_ELEMENTS``, and in-place ops of any size: a goal compares with them."""
        if elements(arguments) > ORACLE_ELEMENTS and case.outputs:
            return None
        given = copy_changed(case, arguments)
        return Prepared(partial(getattr(oracle, case.op), **given), partial(named, case, given))


class Unfused(Peer):
    """The separate cregkit ops that a fused op replaces. The memory of ``h`` is allocated in advance."""

    name = "unfused"
    package = "cregkit"
    pool = "openmp"

    def prepare(self, case: Case, arguments: Arguments) -> Prepared | None:
        """Prepare dropout, addition and norm for a fused op."""
        norm, _, direction = case.op.removeprefix("dropout_add_").rpartition("_")
        if norm == case.op.rpartition("_")[0]:
            return None
        call = self._forward if direction == "forward" else self._backward
        like = arguments["x" if direction == "forward" else "h"]
        bound = partial(call, getattr(functional, f"{norm}_{direction}"), np.empty_like(like), **arguments)
        return Prepared(bound, partial(named, case, arguments))

    def _forward(
        self,
        norm: Any,
        buffer: Any,
        x: Any,
        residual: Any,
        p: float,
        eps: float,
        seed: int = 0,
        offset: int = 0,
        **gain: Any,
    ) -> tuple[Any, ...]:
        with num_threads(self._n_threads):
            dropped = functional.dropout(x, p, seed=seed, offset=offset, out=buffer) if p else x
            h = np.add(residual, dropped, out=buffer)
            y, *statistics = norm(h, **gain, eps=eps)
        return y, h, *statistics

    def _backward(
        self, norm: Any, buffer: Any, dh: Any, p: float, seed: int = 0, offset: int = 0, *, h: Any, **given: Any
    ) -> tuple[Any, ...]:
        with num_threads(self._n_threads):
            through_norm, *sums = norm(x=h, **given)
            dresidual = np.add(through_norm, dh, out=buffer)
            dx = functional.dropout_backward(dresidual, p, seed=seed, offset=offset) if p else dresidual
        return dx, dresidual, *sums


class Torch(Peer):
    """PyTorch, eager."""

    name = "torch"
    package = "torch"
    pool = "openmp"  # one libgomp serves PyTorch and cregkit in one process
    takes_16_bits = True

    def __init__(self, n_threads: int) -> None:
        """Import PyTorch."""
        super().__init__(n_threads)
        self.module = importlib.import_module("torch")

    def prepare(self, case: Case, arguments: Arguments) -> Prepared | None:
        """Prepare an op that has a method here; set PyTorch's thread count, which applies to the whole process."""
        self.module.set_num_threads(self._n_threads)
        make = getattr(self, f"_{case.op}", None)
        if make is None or "gain_offset" in arguments or "average" in arguments:
            return None
        tensors = {
            name: self._tensor(value) if isinstance(value, np.ndarray) else value
            for name, value in copy_changed(case, arguments).items()
        }
        prepared: Prepared | None = make(**tensors)
        return prepared

    def _tensor(self, array: NDArray[Any]) -> Any:
        """Return a tensor in the memory of the array; ``from_numpy`` does not know bfloat16."""
        if not validate.is_bfloat16(array.dtype):
            return self.module.from_numpy(array)
        return self.module.from_numpy(array.view(np.int16)).view(self.module.bfloat16)

    def _array(self, tensor: Any) -> NDArray[Any]:
        """Return the values of a tensor, those of bfloat16 as float32."""
        array: NDArray[Any] = (tensor.float() if tensor.dtype == self.module.bfloat16 else tensor).numpy()
        return array

    def _reader(self, *names: str, layout: Callable[[Any], Any] = lambda tensor: tensor) -> Callable[[Any], Results]:
        """Return a reader of one tensor or a tuple; ``layout`` maps the first one to the axes of the case."""

        def read(returned: Any) -> Results:
            values = returned if isinstance(returned, (tuple, list)) else (returned,)
            results = {name: self._array(value.detach()) for name, value in zip(names, values, strict=False)}
            results[names[0]] = self._array(layout(values[0].detach()))
            return results

        return read

    def _layer_norm(self, x: Any, gamma: Any, beta: Any, eps: float, axis: Any = -1) -> Prepared:
        norm = _over(axis, self.module.layer_norm)
        return Prepared(partial(norm, x, gamma.shape, gamma, beta, eps), self._reader("y"))

    def _layer_norm_forward(self, x: Any, gamma: Any, beta: Any, eps: float, axis: Any = -1) -> Prepared:
        norm = _over(axis, self.module.native_layer_norm)
        return Prepared(partial(norm, x, gamma.shape, gamma, beta, eps), self._reader("y"))

    def _layer_norm_backward(self, dy: Any, x: Any, mean: Any, rstd: Any, gamma: Any, axis: Any = -1) -> Prepared:
        statistics = (value.to(gamma.dtype).reshape(*value.shape, *[1] * gamma.ndim) for value in (mean, rstd))
        backward = _over(axis, self.module.ops.aten.native_layer_norm_backward.default, arrays=2)
        beta = self.module.zeros_like(gamma)
        call = partial(backward, dy, x, gamma.shape, *statistics, gamma, beta, [True] * 3)
        return Prepared(call, self._reader("dx", "dgamma", "dbeta"))

    def _rms_norm(self, x: Any, gamma: Any, eps: float, axis: Any = -1) -> Prepared:
        norm = _over(axis, self.module.rms_norm)
        return Prepared(partial(norm, x, gamma.shape, gamma, eps), self._reader("y"))

    def _rms_norm_backward(self, dy: Any, x: Any, rstd: Any, gamma: Any, axis: Any = -1) -> Prepared:
        """Use autograd: PyTorch has no separate rms_norm backward on the CPU."""
        x, gamma = x.detach().requires_grad_(), gamma.detach().requires_grad_()
        with self.module.enable_grad():
            y = _over(axis, self.module.rms_norm)(x, gamma.shape, gamma, 1e-6)
        return Prepared(
            partial(self.module.autograd.grad, y, (x, gamma), dy, retain_graph=True), self._reader("dx", "dgamma")
        )

    def _batch_norm_forward(
        self, x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, channel_axis: int
    ) -> Prepared:
        first, back = _channels_first(channel_axis)
        given = (first(x), gamma, beta, running_mean, running_var, True, 0.1, 1e-5, False)
        return Prepared(partial(self.module.batch_norm, *given), self._reader("y", layout=back))

    def _batch_norm(
        self, x: Any, mean: Any, var: Any, gamma: Any, beta: Any, eps: float, channel_axis: int
    ) -> Prepared:
        first, back = _channels_first(channel_axis)
        given = (first(x), gamma, beta, mean, var, False, 0.1, eps, False)
        return Prepared(partial(self.module.batch_norm, *given), self._reader("y", layout=back))

    def _batch_norm_backward(self, dy: Any, x: Any, mean: Any, rstd: Any, gamma: Any, channel_axis: int) -> Prepared:
        first, back = _channels_first(channel_axis)
        backward = self.module.ops.aten.native_batch_norm_backward.default
        given = (
            first(dy),
            first(x),
            gamma,
            None,
            None,
            mean.to(gamma.dtype),
            rstd.to(gamma.dtype),
            True,
            1e-5,
            [True] * 3,
        )
        return Prepared(partial(backward, *given), self._reader("dx", "dgamma", "dbeta", layout=back))

    def _batch_norm_inference_backward(
        self, dy: Any, x: Any, mean: Any, var: Any, gamma: Any, eps: float, channel_axis: int
    ) -> Prepared:
        first, back = _channels_first(channel_axis)
        backward = self.module.ops.aten.native_batch_norm_backward.default
        given = (first(dy), first(x), gamma, mean, var, None, None, False, eps, [True] * 3)
        return Prepared(partial(backward, *given), self._reader("dx", "dgamma", "dbeta", layout=back))

    def _ghost_batch_norm_forward(
        self,
        x: Any,
        virtual_batch_size: int,
        gamma: Any,
        beta: Any,
        running_mean: Any,
        running_var: Any,
        channel_axis: int,
    ) -> Prepared:
        """Normalise one part after another, as models in PyTorch do."""
        first, back = _channels_first(channel_axis)
        parts, norm = first(x).split(virtual_batch_size), self.module.batch_norm
        given = (gamma, beta, running_mean, running_var, True, 0.1, 1e-5, False)
        return Prepared(lambda: self.module.cat([norm(part, *given) for part in parts]), self._reader("y", layout=back))

    def _ghost_batch_norm_backward(
        self, dy: Any, x: Any, virtual_batch_size: int, mean: Any, rstd: Any, gamma: Any, channel_axis: int
    ) -> Prepared:
        first, back = _channels_first(channel_axis)
        backward = self.module.ops.aten.native_batch_norm_backward.default
        parts = list(
            zip(
                *(first(a).split(virtual_batch_size) for a in (dy, x)),
                mean.to(gamma.dtype),
                rstd.to(gamma.dtype),
                strict=True,
            )
        )

        def call() -> tuple[Any, ...]:
            found = [backward(g, v, gamma, None, None, m, r, True, 1e-5, [True] * 3) for g, v, m, r in parts]
            dx, dgamma, dbeta = zip(*found, strict=True)
            return self.module.cat(dx), sum(dgamma), sum(dbeta)

        return Prepared(call, self._reader("dx", "dgamma", "dbeta", layout=back))

    def _group_norm(self, x: Any, num_groups: int, gamma: Any, beta: Any, eps: float, channel_axis: int) -> Prepared:
        first, back = _channels_first(channel_axis)
        given = (first(x), num_groups, gamma, beta, eps, False)
        return Prepared(partial(self.module.group_norm, *given), self._reader("y", layout=back))

    def _group_norm_forward(
        self, x: Any, num_groups: int, gamma: Any, beta: Any, eps: float, channel_axis: int
    ) -> Prepared:
        first, back = _channels_first(channel_axis)
        given = (first(x), gamma, beta, *_sizes(first(x)), num_groups, eps)
        return Prepared(partial(self.module.native_group_norm, *given), self._reader("y", layout=back))

    def _group_norm_backward(self, dy: Any, x: Any, mean: Any, rstd: Any, gamma: Any, channel_axis: int) -> Prepared:
        first, back = _channels_first(channel_axis)
        backward = self.module.ops.aten.native_group_norm_backward.default
        sizes = *_sizes(first(x)), mean.shape[1], [True] * 3
        given = (first(dy), first(x), mean.to(gamma.dtype), rstd.to(gamma.dtype), gamma, *sizes)
        return Prepared(partial(backward, *given), self._reader("dx", "dgamma", "dbeta", layout=back))

    def _instance_norm(self, x: Any, gamma: Any, beta: Any, eps: float, channel_axis: int) -> Prepared:
        first, back = _channels_first(channel_axis)
        given = (first(x), gamma, beta, None, None, True, 0.0, eps, False)
        return Prepared(partial(self.module.instance_norm, *given), self._reader("y", layout=back))

    def _instance_norm_forward(
        self, x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, channel_axis: int
    ) -> Prepared:
        first, back = _channels_first(channel_axis)
        given = (first(x), gamma, beta, running_mean, running_var, True, 0.1, 1e-5, False)
        return Prepared(partial(self.module.instance_norm, *given), self._reader("y", layout=back))

    def _instance_norm_backward(self, dy: Any, x: Any, mean: Any, rstd: Any, gamma: Any, channel_axis: int) -> Prepared:
        """Use autograd: PyTorch has no separate instance_norm backward."""
        first, back = _channels_first(channel_axis)
        beta = self.module.zeros_like(gamma)
        leaves = [value.detach().requires_grad_() for value in (first(x), gamma, beta)]
        with self.module.enable_grad():
            y = self.module.instance_norm(*leaves, None, None, True, 0.0, 1e-5, False)
        call = partial(self.module.autograd.grad, y, leaves, first(dy), retain_graph=True)
        return Prepared(call, self._reader("dx", "dgamma", "dbeta", layout=back))

    def _dropout(self, x: Any, p: float, seed: int, offset: int) -> Prepared:
        return Prepared(partial(self.module.dropout, x, p, True), self._reader("y"), random=True)

    def _dropout_backward(self, dy: Any, **given: Any) -> Prepared:
        return self._times_mask("dropout_backward", dy, tuple(dy.shape), given)

    def _spatial_dropout(self, x: Any, p: float, seed: int, offset: int, channel_axis: int = 1) -> Prepared:
        return self._drop_channels(self.module.feature_dropout, x, p, channel_axis)

    def _spatial_dropout_backward(self, dy: Any, channel_axis: int = 1, **given: Any) -> Prepared:
        return self._times_mask_of_channels("spatial_dropout_backward", dy, channel_axis, given)

    def _drop_path(self, x: Any, p: float, seed: int, offset: int, mode: str) -> Prepared:
        """Multiply by a mask, as timm and torchvision do."""
        shape = _samples(x, mode)

        def call() -> Any:
            return x * x.new_empty(shape).bernoulli_(1.0 - p).div_(1.0 - p)

        return Prepared(call, self._reader("y"), random=True)

    def _drop_path_backward(self, dy: Any, mode: str, **given: Any) -> Prepared:
        return self._times_mask("drop_path_backward", dy, _samples(dy, mode), given | {"mode": mode})

    def _alpha_dropout(self, x: Any, p: float, seed: int, offset: int) -> Prepared:
        return Prepared(partial(self.module.alpha_dropout, x, p, True), self._reader("y"), random=True)

    def _alpha_dropout_backward(self, dy: Any, **given: Any) -> Prepared:
        return self._times_mask("alpha_dropout_backward", dy, tuple(dy.shape), given)

    def _feature_alpha_dropout(self, x: Any, p: float, seed: int, offset: int, channel_axis: int = 1) -> Prepared:
        return self._drop_channels(self.module.feature_alpha_dropout, x, p, channel_axis)

    def _feature_alpha_dropout_backward(self, dy: Any, channel_axis: int = 1, **given: Any) -> Prepared:
        return self._times_mask_of_channels("feature_alpha_dropout_backward", dy, channel_axis, given)

    def _drop_channels(self, op: Callable[..., Any], x: Any, p: float, channel_axis: int) -> Prepared:
        first, back = _channels_first(channel_axis)
        return Prepared(partial(op, first(x), p, True), self._reader("y", layout=back), random=True)

    def _times_mask_of_channels(self, op: str, dy: Any, channel_axis: int, given: Arguments) -> Prepared:
        rest = (1,) * (dy.ndim - 2)
        n, c = dy.shape[0], dy.shape[channel_axis]
        shape = (n, c, *rest) if channel_axis == 1 else (n, *rest, c)
        return self._times_mask(op, dy, shape, given | {"channel_axis": channel_axis})

    def _times_mask(self, op: str, dy: Any, shape: tuple[int, ...], given: Arguments) -> Prepared:
        """Multiply by the scaled mask saved in forward, as autograd does; the mask, of this shape, is cregkit's."""
        mask = getattr(oracle, op)(np.ones(shape), **given).astype(np.float32)
        scaled = self.module.from_numpy(mask).to(dy.dtype)
        return Prepared(partial(self.module.mul, dy, scaled), self._reader("dx"))

    def _dropout_add_layer_norm_forward(self, x: Any, residual: Any, gamma: Any, beta: Any, **others: Any) -> Prepared:
        norm = partial(self.module.layer_norm, normalized_shape=gamma.shape, weight=gamma, bias=beta)
        return self._sublayer(norm, x, residual, **others)

    def _dropout_add_rms_norm_forward(self, x: Any, residual: Any, gamma: Any, **others: Any) -> Prepared:
        norm = partial(self.module.rms_norm, normalized_shape=gamma.shape, weight=gamma)
        return self._sublayer(norm, x, residual, **others)

    def _sublayer(self, norm: Any, x: Any, residual: Any, p: float, eps: float, **random: int) -> Prepared:
        def call() -> tuple[Any, Any]:
            h = residual + (self.module.dropout(x, p, True) if p else x)
            return norm(h, eps=eps), h

        return Prepared(call, self._reader("y", "h"), random=p > 0.0)

    def _dropout_add_layer_norm_backward(self, dy: Any, h: Any, mean: Any, rstd: Any, gamma: Any, **o: Any) -> Prepared:
        return self._sublayer_backward(self._layer_norm_backward(dy, h, mean, rstd, gamma), **o)

    def _dropout_add_rms_norm_backward(self, dy: Any, h: Any, rstd: Any, gamma: Any, **others: Any) -> Prepared:
        return self._sublayer_backward(self._rms_norm_backward(dy, h, rstd, gamma), **others)

    def _sublayer_backward(self, norm: Prepared, dh: Any, p: float, **random: int) -> Prepared:
        """Add, and multiply by the mask, after the norm's backward, as autograd does."""
        noise = self.module.from_numpy(oracle.dropout_keep(tuple(dh.shape), p, **random) / (1.0 - p)) if p else None
        scaled = None if noise is None else noise.to(dh.dtype)

        def call() -> tuple[Any, ...]:
            through_norm, *sums = norm.call()
            dresidual = through_norm + dh
            return dresidual if scaled is None else dresidual * scaled, dresidual, *sums

        return Prepared(call, self._reader("dx", "dresidual", "dgamma", "dbeta"))

    def _l2_gradient(self, w: Any, weight_decay: float) -> Prepared:
        return Prepared(partial(self.module.mul, w, weight_decay), self._reader("dw"))

    def _sgd_step(self, w: Any, dw: Any, lr: float, weight_decay: float, momentum: float, velocity: Any) -> Prepared:
        w.grad = dw
        optimizer = self.module.optim.SGD([w], lr, momentum=momentum, weight_decay=weight_decay, fused=True)
        optimizer.state[w]["momentum_buffer"] = velocity
        return Prepared(optimizer.step, lambda _: {"w": w.numpy(), "velocity": velocity.numpy()})

    def _adamw_step(self, w: Any, dw: Any, m: Any, v: Any, step: int, lr: float, decoupled: bool) -> Prepared:
        w.grad = dw
        make = self.module.optim.AdamW if decoupled else self.module.optim.Adam
        optimizer = make([w], lr, weight_decay=0.01, fused=True)
        done = self.module.tensor(float(step - 1))
        optimizer.state[w].update(step=done, exp_avg=m, exp_avg_sq=v)
        return Prepared(optimizer.step, lambda _: {"w": w.numpy(), "m": m.numpy(), "v": v.numpy()})


class TorchCompile(Torch):
    """PyTorch with ``torch.compile``, for the ops for which it generates code."""

    name = "torch.compile"
    _COMPILED = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm", "dropout")

    def prepare(self, case: Case, arguments: Arguments) -> Prepared | None:
        """Compile for these exact shapes; the first call takes seconds."""
        eager = super().prepare(case, arguments) if case.op in self._COMPILED else None
        if eager is None:
            return None
        self.module.compiler.reset()
        function, given = eager.call.func, eager.call.args  # type: ignore[attr-defined]
        tensors = [value for value in given if isinstance(value, self.module.Tensor)]
        compiled = self.module.compile(lambda *inputs: function(*_with(given, inputs, self.module)), dynamic=False)
        return eager._replace(call=partial(compiled, *tensors))


def _sizes(x: Any) -> tuple[int, int, int]:
    """Return the numbers of samples, channels and positions of x, of shape (N, C, ...)."""
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def _with(given: tuple[Any, ...], tensors: tuple[Any, ...], torch: Any) -> list[Any]:
    """Return ``given`` with its tensors replaced by ``tensors``, in order."""
    following = iter(tensors)
    return [next(following) if isinstance(value, torch.Tensor) else value for value in given]


class Node(NamedTuple):
    """An ONNX operator: type, inputs, opset version, domain and outputs (an empty name is omitted)."""

    kind: str
    inputs: tuple[str, ...]
    version: int
    domain: str = ""
    outputs: tuple[str, ...] = ("y",)


class OnnxRuntime(Peer):
    """ONNX Runtime on a model of one node, with inputs and outputs bound in advance."""

    name = "onnxruntime"
    package = "onnxruntime"
    pool = "onnxruntime"
    _NODES: ClassVar[Mapping[str, Node]] = {
        "layer_norm": Node("LayerNormalization", ("x", "gamma", "beta"), 17),
        "rms_norm": Node("RMSNormalization", ("x", "gamma"), 23),
        "batch_norm": Node("BatchNormalization", ("x", "gamma", "beta", "mean", "var"), 15),
        "dropout_add_layer_norm_forward": Node(
            "SkipLayerNormalization", ("x", "residual", "gamma", "beta"), 1, "com.microsoft", ("y", "", "", "h")
        ),
        "dropout_add_rms_norm_forward": Node(
            "SkipSimplifiedLayerNormalization", ("x", "residual", "gamma"), 1, "com.microsoft", ("y", "", "", "h")
        ),
    }

    def __init__(self, n_threads: int) -> None:
        """Import ONNX Runtime and onnx."""
        super().__init__(n_threads)
        self._ort = importlib.import_module("onnxruntime")
        self._onnx = importlib.import_module("onnx")

    @classmethod
    def available(cls) -> bool:
        """Return whether ONNX Runtime and onnx, which builds its models, are installed."""
        return super().available() and importlib.util.find_spec("onnx") is not None

    def prepare(self, case: Case, arguments: Arguments) -> Prepared | None:
        """Prepare a forward op that ONNX Runtime has: channels first, without dropout and options of the norms."""
        node = self._NODES.get(case.op)
        options = arguments.keys() & {"axis", "gain_offset"}
        if node is None or options or arguments.get("channel_axis", 1) != 1 or arguments.get("p"):
            return None
        inputs = {name: arguments[name] for name in node.inputs}
        outputs = [name for name in node.outputs if name]
        shape = arguments["x"].shape
        model = self._model(node, inputs, outputs, arguments["eps"])
        session = self._ort.InferenceSession(model, self._options(), providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, self._ort.OrtValue.ortvalue_from_numpy(value))
        for name in outputs:
            binding.bind_ortvalue_output(name, self._ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32))
        return Prepared(
            partial(session.run_with_iobinding, binding),
            lambda _: dict(zip(outputs, binding.copy_outputs_to_cpu(), strict=True)),
        )

    def _options(self) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._n_threads
        options.log_severity_level = 3
        return options

    def _model(self, node: Node, inputs: Mapping[str, NDArray[Any]], outputs: list[str], eps: float) -> bytes:
        helper, real = self._onnx.helper, self._onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            [helper.make_node(node.kind, list(inputs), list(node.outputs), domain=node.domain, epsilon=eps)],
            node.kind,
            [helper.make_tensor_value_info(name, real, value.shape) for name, value in inputs.items()],
            [helper.make_tensor_value_info(name, real, inputs["x"].shape) for name in outputs],
        )
        standard = [helper.make_opsetid("", 17 if node.domain else node.version)]
        model = helper.make_model(
            graph,
            opset_imports=[*standard, *([helper.make_opsetid(node.domain, node.version)] if node.domain else ())],
            ir_version=helper.find_min_ir_version_for(standard),
        )
        serialised: bytes = model.SerializeToString()
        return serialised


class Jax(Peer):
    """JAX on the CPU, with each op compiled by ``jit``."""

    name = "jax"
    package = "jax"
    pool = "jax"

    def __init__(self, n_threads: int) -> None:
        """Import JAX."""
        super().__init__(n_threads)
        self._jax = importlib.import_module("jax")
        self._jax.config.update("jax_platforms", "cpu")

    def prepare(self, case: Case, arguments: Arguments) -> Prepared | None:
        """Prepare an op that has a method here, written in idiomatic JAX."""
        function = getattr(self, f"_{case.op}", None)
        if function is None or arguments.keys() & {"axis", "gain_offset"}:
            return None
        arrays = {name: self._jax.numpy.asarray(v) for name, v in arguments.items() if isinstance(v, np.ndarray)}
        constants = {name: value for name, value in arguments.items() if name not in arrays}
        compiled = self._jax.jit(partial(function, **constants)).lower(**arrays).compile()
        call = partial(compiled, **arrays)
        return Prepared(lambda: call().block_until_ready(), lambda y: {"y": np.asarray(y)}, random=case.op == "dropout")

    def _layer_norm(self, x: Any, gamma: Any, beta: Any, eps: float) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        rstd = self._jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + eps)
        return centred * rstd * gamma + beta

    def _rms_norm(self, x: Any, gamma: Any, eps: float) -> Any:
        return x * self._jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps) * gamma

    def _batch_norm(self, x: Any, mean: Any, var: Any, gamma: Any, beta: Any, eps: float, channel_axis: int) -> Any:
        shape = [1] * x.ndim
        shape[channel_axis] = -1
        scale = gamma * self._jax.lax.rsqrt(var + eps)
        return (x - mean.reshape(shape)) * scale.reshape(shape) + beta.reshape(shape)

    def _dropout(self, x: Any, p: float, seed: int, offset: int) -> Any:
        keep = self._jax.random.bernoulli(self._jax.random.key(seed), 1.0 - p, x.shape)
        return self._jax.numpy.where(keep, x / (1.0 - p), 0.0)


PEER_NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "jax": "JAX"}
"""How the libraries spell their names, where that is not how the peer is called."""

PEERS: tuple[type[Peer], ...] = (Unfused, Torch, TorchCompile, OnnxRuntime, Jax, Oracle)
"""The peers in the order of measurement: those that share cregkit's OpenMP threads come first."""


def elements(arguments: Arguments) -> int:
    """Return the size of the largest array among the arguments, or of their ``shape``."""
    sizes = [value.size for value in arguments.values() if isinstance(value, np.ndarray)]
    return max(sizes) if sizes else math.prod(arguments["shape"])


def copy_changed(case: Case, arguments: Arguments) -> Arguments:
    """Return the arguments, with copies of those that the op changes in place."""
    return {name: value.copy() if name in case.changed else value for name, value in arguments.items()}


def named(case: Case, arguments: Arguments, returned: Any) -> Results:
    """Return the results of a cregkit op and the arguments it changed, by name."""
    values = returned if isinstance(returned, tuple) else (returned,)
    results = {name: np.asarray(value) for name, value in zip(case.outputs, values, strict=False) if value is not None}
    return results | {name: arguments[name] for name in case.changed}


def complaint(case: Case, arguments: Arguments, prepared: Prepared, reference: Mapping[str, NDArray[Any]]) -> str:
    """Run a peer's op once; return what is wrong with its results, or an empty string."""
    got, unit = prepared.read(prepared.call()), _unit(case)
    if prepared.random and "h" in got:
        reference = _of_drawn(case, arguments, got["h"])
        error = 2.0 * unit * largest(arguments, got["h"])
        if wrong := _drops_wrongly(case, arguments, got["h"] - arguments["residual"], error):
            return f"h - residual {wrong}"
        prepared = prepared._replace(random=False)
    for name, value in got.items():
        if value.shape != reference[name].shape:
            return f"{name} must have shape {reference[name].shape}, got {value.shape}"
        if prepared.random:
            wrong = _drops_wrongly(case, arguments, value)
        elif unit and name in SUMS:
            continue  # PyTorch adds up dgamma and dbeta in 16 bits
        else:
            error = float(np.abs(value.astype(np.float64) - reference[name]).max(initial=0.0))
            limit = (SLACK + ROUNDINGS * unit) * largest(arguments, reference[name])
            wrong = "" if error <= limit else f"is off by {error:.3g}, rounding explains {limit:.3g}"
        if wrong:
            return f"{name} {wrong}"
    return "" if got else "gives no result"


def _unit(case: Case) -> float:
    """Return the largest relative error of a rounding to the type of 16-bit tensors; 0 for float32."""
    return 0.0 if case.dtype == FLOAT32 else float(np.spacing(case.dtype.type(1))) / 2.0


def _of_drawn(case: Case, arguments: Arguments, h: NDArray[np.float32]) -> Results:
    """Return the oracle's results for a sum ``h`` that a peer computed with its own dropout mask."""
    given = {name: value for name, value in arguments.items() if name not in ("seed", "offset")}
    given |= {"x": np.zeros_like(h), "residual": h, "p": 0.0}
    return named(case, given, getattr(oracle, case.op)(**given))


def _drops_wrongly(case: Case, arguments: Arguments, y: NDArray[Any], error: float = 0.0) -> str:
    """Return what is wrong with dropout under another mask: a value or the dropped fraction; or an empty string.

    ``error`` is what rounding may add to a value.
    """
    x, p, unit = widened(arguments)["x"], arguments["p"], _unit(case)
    scale, shift, fill = 1.0 / (1.0 - p), 0.0, 0.0
    if "alpha" in case.op:
        scale = 1.0 / math.sqrt((ALPHA**2 * p + 1.0) * (1.0 - p))
        shift, fill = -scale * ALPHA * p, scale * ALPHA * (1.0 - p)
    dropped = np.isclose(y, fill, rtol=1e-6, atol=0.0)
    rtol, atol = 1e-6 + ROUNDINGS * unit, 1e-6 * shift + error
    atol += ROUNDINGS * unit * 2.0**-14  # below 2**-14, float16 is subnormal
    if not np.allclose(y, np.where(dropped, fill, x * scale + shift), rtol, atol):
        return f"is not x * {scale:.4g} + {shift:.4g} where it is kept"
    draws, parts = (some(dropped, axis=_shared_axes(case.op, arguments)) for some in (np.all, np.any))
    if not np.array_equal(draws, parts):
        return "is dropped in part where a decision is shared"
    share, deviation = float(draws.mean()), math.sqrt(p * (1.0 - p) / draws.size)
    # Rounded to the type of the residual, a small term of the sum looks like a dropped one.
    return "" if abs(share - p) <= 6.0 * deviation + unit else f"drops {share:.4f} of x, not {p}"


def _over(axis: int | tuple[int, ...], norm: Callable[..., Any], arrays: int = 1) -> Callable[..., Any]:
    """Return PyTorch's norm for this axis. It is moved last in ``arrays`` arrays, and back in the first result."""
    if isinstance(axis, tuple) or axis == -1:
        return norm

    def moved(*given: Any) -> Any:
        returned = norm(*(array.movedim(axis, -1) for array in given[:arrays]), *given[arrays:])
        first, *others = returned if isinstance(returned, tuple) else (returned,)
        back = first.movedim(-1, axis).contiguous()
        return (back, *others) if others else back

    return moved


def _shared_axes(op: str, arguments: Arguments) -> tuple[int, ...]:
    """Return the axes along which the elements of a forward dropout share a decision."""
    axes = tuple(range(arguments["x"].ndim))
    if op == "drop_path":
        return axes[1:] if arguments["mode"] == "row" else axes
    if op in ("spatial_dropout", "feature_alpha_dropout"):
        return axes[1:-1] if arguments.get("channel_axis", 1) == -1 else axes[2:]
    return ()


def _samples(x: Any, mode: str) -> tuple[int, ...]:
    """Return the shape of the decisions of drop_path."""
    return (x.shape[0] if mode == "row" else 1, *[1] * (x.ndim - 1))


def _channels_first(channel_axis: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return functions to a (N, C, ...) view, as PyTorch requires, and back; the memory layout does not change."""
    if channel_axis == 1:
        return (lambda tensor: tensor), (lambda tensor: tensor)
    return (lambda tensor: tensor.movedim(-1, 1)), (lambda tensor: tensor.movedim(1, -1))
