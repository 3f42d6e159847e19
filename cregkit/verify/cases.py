"""One case per op and type: its inputs, shapes and tolerances, for the tests, ``cregkit check`` and the benchmarks.

To verify an op: make ``case.arguments(shape, rng, offset)``, ``run`` the op, compute its ``reference`` and compare both
by ``errors``. Results for 16-bit tensors must also have the bits of those that ``rounded_results`` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import oracle
from cregkit.verify import inputs, shapes
from cregkit.verify.dtypes import DTYPES, FLOAT32, SUMS, narrowed, widened
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import Shape, Timed
from cregkit.verify.tolerances import (
    COLUMN_SUM,
    EXACT,
    GRADIENT,
    INVERSE_DEVIATION,
    JITTERED,
    LIMITED,
    MIXED,
    MOVED,
    NOISY,
    NORMALISED,
    PENALTY,
    RUNNING,
    SCALED,
    SHIFTED,
    STATISTIC,
    STATISTIC_OF_SUM,
    TURNED,
    UNIFORM,
    Tolerance,
    share_of_tolerance,
    stepped,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An op with its arguments, the shapes to try and the tolerances of its results."""

    op: str
    label: str = ""
    """What sets this case apart from others of the same op."""
    arguments: Callable[[Shape, np.random.Generator, float], Arguments]
    """From a shape, a source of random numbers and an offset to fresh keyword arguments of the op."""
    shapes: tuple[Shape, ...]
    """The shapes on which results are checked."""
    timed: Timed
    """The shapes on which calls are timed."""
    outputs: Mapping[str, Tolerance] = field(default_factory=dict)
    """What the op returns, in order."""
    changed: Mapping[str, Tolerance] = field(default_factory=dict)
    """The arguments that the op changes in place."""
    bytes_per_element: int
    """Memory traffic of the op per element of the shape, if no cache holds the arrays; every pass counts."""
    dtypes: tuple[np.dtype[Any], ...] = (FLOAT32,)
    """The types that the op's tensors may have."""
    dtype: np.dtype[Any] = FLOAT32
    """The type of the tensors and parameters of this case."""

    @property
    def name(self) -> str:
        """Name of the op, with the label and any type but float32 in brackets."""
        labels = [label for label in (self.label, "" if self.dtype == FLOAT32 else self.dtype.name) if label]
        return f"{self.op}[{', '.join(labels)}]" if labels else self.op

    def stored_as(self, dtype: np.dtype[Any]) -> Case:
        """Return the same case with tensors and parameters of this type."""

        def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
            # The offset loses as many bits of the data as it does in float32.
            coarser = float(np.spacing(dtype.type(1)) / np.spacing(np.float32(1)))
            return narrowed(self.arguments(shape, rng, offset / coarser), dtype)

        passes, others = divmod(self.bytes_per_element, FLOAT32.itemsize)
        n_bytes = passes * dtype.itemsize + others
        return replace(self, dtype=dtype, arguments=arguments, bytes_per_element=n_bytes)


def run(case: Case, namespace: Any, arguments: Arguments) -> dict[str, NDArray[Any]]:
    """Call the op of ``namespace`` on copies of the arguments and return results and changed arguments by name."""
    given = {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in arguments.items()}
    returned = getattr(namespace, case.op)(**given)
    values = returned if isinstance(returned, tuple) else (returned,)
    results = {name: np.asarray(value) for name, value in zip(case.outputs, values, strict=False) if value is not None}
    results.update({name: given[name] for name in case.changed if given[name] is not None})
    return results


def reference(case: Case, arguments: Arguments) -> dict[str, NDArray[Any]]:
    """Return the oracle's results in float64, changed arguments included."""
    wide = {
        name: value.astype(np.float64) if name in case.changed and isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    return run(case, oracle, wide)


def rounded_results(case: Case, namespace: Any, arguments: Arguments) -> dict[str, NDArray[Any]]:
    """Return the results of the op in float32 for 16-bit arguments, each rounded once to the type it must have."""
    with np.errstate(over="ignore"):
        return {
            name: value.astype(arguments[name].dtype if name in case.changed else case.dtype)
            if value.dtype == FLOAT32 and name not in SUMS
            else value
            for name, value in run(case, namespace, widened(arguments)).items()
        }


def errors(
    case: Case, arguments: Arguments, got: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """Return the error of each output as a fraction of its tolerance; that of a missing output is infinite."""
    tolerances, wide = {**case.outputs, **case.changed}, widened(arguments)
    return {
        name: share_of_tolerance(got[name], value, tolerances[name], wide) if name in got else np.inf
        for name, value in wanted.items()
    }


def _layer_norm_cases(label: str, checked: tuple[Shape, ...], timed: Timed, **options: Any) -> list[Case]:
    case = partial(Case, dtypes=DTYPES, label=label, shapes=checked, timed=timed)
    forward, backward = partial(inputs.layer_norm, **options), partial(inputs.layer_norm_backward, **options)
    y, statistics = {"y": NORMALISED}, {"mean": STATISTIC, "rstd": INVERSE_DEVIATION}
    gradients = {"dx": GRADIENT, "dgamma": COLUMN_SUM, "dbeta": COLUMN_SUM}
    return [
        case(op="layer_norm", arguments=forward, outputs=y, bytes_per_element=8),
        case(op="layer_norm_forward", arguments=forward, outputs=y | statistics, bytes_per_element=8),
        case(op="layer_norm_backward", arguments=backward, outputs=gradients, bytes_per_element=12),
    ]


def _rms_norm_cases(label: str, checked: tuple[Shape, ...], timed: Timed, **options: Any) -> list[Case]:
    case = partial(Case, dtypes=DTYPES, label=label, shapes=checked, timed=timed)
    forward, backward = partial(inputs.rms_norm, **options), partial(inputs.rms_norm_backward, **options)
    y, rstd, gradients = {"y": NORMALISED}, {"rstd": INVERSE_DEVIATION}, {"dx": GRADIENT, "dgamma": COLUMN_SUM}
    return [
        case(op="rms_norm", arguments=forward, outputs=y, bytes_per_element=8),
        case(op="rms_norm_forward", arguments=forward, outputs=y | rstd, bytes_per_element=8),
        case(op="rms_norm_backward", arguments=backward, outputs=gradients, bytes_per_element=12),
    ]


def _batch_norm_cases(label: str, channel_axis: int, checked: tuple[Shape, ...], timed: Timed) -> list[Case]:
    case = partial(Case, dtypes=DTYPES, label=label, shapes=checked, timed=timed)
    training = {"y": NORMALISED, "mean": STATISTIC, "rstd": INVERSE_DEVIATION}
    running = {"running_mean": RUNNING, "running_var": RUNNING}
    gradients = {"dx": GRADIENT, "dgamma": COLUMN_SUM, "dbeta": COLUMN_SUM}

    def on_axis(arguments: Callable[..., Arguments]) -> Callable[..., Arguments]:
        return partial(arguments, channel_axis=channel_axis)

    inference, forward = on_axis(inputs.batch_norm), on_axis(inputs.batch_norm_forward)
    backward, inference_backward = on_axis(inputs.batch_norm_backward), on_axis(inputs.batch_norm_inference_backward)
    return [
        case(op="batch_norm", arguments=inference, outputs={"y": NORMALISED}, bytes_per_element=8),
        case(op="batch_norm_forward", arguments=forward, outputs=training, changed=running, bytes_per_element=12),
        case(op="batch_norm_backward", arguments=backward, outputs=gradients, bytes_per_element=20),
        case(
            op="batch_norm_inference_backward",
            arguments=inference_backward,
            outputs=gradients,
            bytes_per_element=12,
        ),
    ]


def _ghost_batch_norm_cases(label: str, channel_axis: int, checked: tuple[Shape, ...], timed: Timed) -> list[Case]:
    case = partial(Case, dtypes=DTYPES, label=label, shapes=checked, timed=timed)
    training = partial(inputs.ghost_batch_norm_forward, channel_axis=channel_axis)
    backward = partial(inputs.ghost_batch_norm_backward, channel_axis=channel_axis)
    results = {"y": NORMALISED, "mean": STATISTIC, "rstd": INVERSE_DEVIATION}
    running = {"running_mean": RUNNING, "running_var": RUNNING}
    gradients = {"dx": GRADIENT, "dgamma": COLUMN_SUM, "dbeta": COLUMN_SUM}
    return [
        case(op="ghost_batch_norm_forward", arguments=training, outputs=results, changed=running, bytes_per_element=12),
        case(op="ghost_batch_norm_backward", arguments=backward, outputs=gradients, bytes_per_element=20),
    ]


def _group_norm_cases(label: str, channel_axis: int, checked: tuple[Shape, ...], timed: Timed) -> list[Case]:
    case = partial(Case, dtypes=DTYPES, label=label, shapes=checked, timed=timed)
    forward = partial(inputs.group_norm, channel_axis=channel_axis)
    backward = partial(inputs.group_norm_backward, channel_axis=channel_axis)
    results = {"y": NORMALISED, "mean": STATISTIC, "rstd": INVERSE_DEVIATION}
    gradients = {"dx": GRADIENT, "dgamma": COLUMN_SUM, "dbeta": COLUMN_SUM}
    return [
        case(op="group_norm", arguments=forward, outputs={"y": NORMALISED}, bytes_per_element=8),
        case(op="group_norm_forward", arguments=forward, outputs=results, bytes_per_element=8),
        case(op="group_norm_backward", arguments=backward, outputs=gradients, bytes_per_element=12),
    ]


def _instance_norm_cases(label: str, channel_axis: int, checked: tuple[Shape, ...], timed: Timed) -> list[Case]:
    case = partial(Case, dtypes=DTYPES, label=label, shapes=checked, timed=timed)
    inference = partial(inputs.instance_norm, channel_axis=channel_axis)
    # The arguments are those of batch_norm_forward, running statistics included.
    training = partial(inputs.batch_norm_forward, channel_axis=channel_axis)
    backward = partial(inputs.instance_norm_backward, channel_axis=channel_axis)
    results = {"y": NORMALISED, "mean": STATISTIC, "rstd": INVERSE_DEVIATION}
    running = {"running_mean": RUNNING, "running_var": RUNNING}
    gradients = {"dx": GRADIENT, "dgamma": COLUMN_SUM, "dbeta": COLUMN_SUM}
    return [
        case(op="instance_norm", arguments=inference, outputs={"y": NORMALISED}, bytes_per_element=8),
        case(op="instance_norm_forward", arguments=training, outputs=results, changed=running, bytes_per_element=8),
        case(op="instance_norm_backward", arguments=backward, outputs=gradients, bytes_per_element=12),
    ]


def _dropout_add_norm_cases(
    norm: str, p: float, label: str = "", timed: Timed = shapes.TIMED_SUBLAYERS, **options: Any
) -> list[Case]:
    case = partial(Case, dtypes=DTYPES, label=f"p = {p:g}{label}", shapes=shapes.ROWS, timed=timed)
    mean = {"mean": STATISTIC_OF_SUM} if norm == "layer_norm" else {}
    dbeta = {"dbeta": COLUMN_SUM} if norm == "layer_norm" else {}
    return [
        case(
            op=f"dropout_add_{norm}_forward",
            arguments=partial(inputs.dropout_add_norm, p=p, norm=norm, **options),
            outputs={"y": NORMALISED, "h": EXACT, **mean, "rstd": INVERSE_DEVIATION},
            bytes_per_element=16,
        ),
        case(
            op=f"dropout_add_{norm}_backward",
            arguments=partial(inputs.dropout_add_norm_backward, p=p, norm=norm, **options),
            outputs={"dx": GRADIENT, "dresidual": GRADIENT, "dgamma": COLUMN_SUM, **dbeta},
            bytes_per_element=20,
        ),
    ]


def _dropout_cases() -> list[Case]:
    def pair(
        op: str, checked: tuple[Shape, ...], timed: Timed, label: str = "", y: Tolerance = SCALED, **options: Any
    ) -> list[Case]:
        case = partial(Case, dtypes=DTYPES, label=label, shapes=checked, timed=timed)
        n_bytes = 10 if op == "drop_block" else 8  # DropBlock's mask is written and read
        x, dy = partial(inputs.dropout, name="x", **options), partial(inputs.dropout, name="dy", **options)
        return [
            case(op=op, arguments=x, outputs={"y": y}, bytes_per_element=n_bytes),
            case(op=f"{op}_backward", arguments=dy, outputs={"dx": SCALED}, bytes_per_element=n_bytes),
        ]

    elements = shapes.ELEMENTS, shapes.TIMED_ELEMENTS
    maps, maps_last = (shapes.MAPS, shapes.TIMED_PLANES), (shapes.CHANNELS_LAST, shapes.TIMED_CHANNELS_LAST)
    images, images_last = (shapes.IMAGES, shapes.TIMED_MAPS), (shapes.IMAGES_LAST, shapes.TIMED_CHANNELS_LAST)
    keep = partial(Case, op="dropout_keep", arguments=inputs.dropout_keep, shapes=elements[0], timed=elements[1])
    return [
        *pair("dropout", *elements),
        keep(outputs={"keep": EXACT}, bytes_per_element=1),
        *pair("spatial_dropout", *maps),
        *pair("spatial_dropout", *maps_last, "..., C", channel_axis=-1),
        *pair("drop_path", *maps, "row", p=0.4, mode="row"),
        *pair("drop_path", *maps, "batch", p=0.4, mode="batch"),
        *pair("drop_block", *images, "N, C, H, W", p=0.3, block_size=3),
        *pair("drop_block", *images_last, "N, H, W, C", p=0.3, block_size=3, channel_axis=-1),
        *pair("alpha_dropout", *elements, y=SHIFTED),
        *pair("feature_alpha_dropout", *maps, "N, C, ...", SHIFTED),
        *pair("feature_alpha_dropout", *maps_last, "..., C", SHIFTED, channel_axis=-1),
    ]


def _image_cases(label: str, channel_axis: int, checked: tuple[Shape, ...], timed: Timed) -> list[Case]:
    def case(
        op: str, arguments: Callable[..., Arguments], tolerance: Tolerance, n_bytes: int = 8, mode: str = ""
    ) -> Case:
        given = {"mode": mode} if mode else {}
        return Case(
            op=op,
            label=f"{mode}, {label}" if mode else label,
            arguments=partial(arguments, channel_axis=channel_axis, **given),
            shapes=checked,
            timed=timed,
            outputs={"y": tolerance},
            bytes_per_element=n_bytes,
        )

    return [
        case("crop_images", inputs.crop_images, MOVED, mode="zero"),
        case("crop_images", inputs.crop_images, MOVED, mode="reflect"),
        case("flip_images", inputs.flip_images, MOVED),
        case("rotate_images", inputs.rotate_images, TURNED),
        case("cutout_images", inputs.cutout_images, MOVED),
        case("cutmix_images", inputs.cutmix_images, MOVED, n_bytes=12),
        case("jitter_images", inputs.jitter_images, JITTERED, n_bytes=12),
    ]


def _optimizer_cases() -> list[Case]:
    case = partial(Case, shapes=shapes.ELEMENTS, timed=shapes.TIMED_WEIGHTS)
    adamw = partial(case, op="adamw_step", changed=stepped("w", "m", "v"), bytes_per_element=28)
    modified = partial(case, label="modified")
    return [
        case(op="l2_penalty", arguments=inputs.weights, outputs={"penalty": PENALTY}, bytes_per_element=4),
        case(op="l2_gradient", arguments=inputs.weights, outputs={"dw": SCALED}, bytes_per_element=8),
        case(op="sum_squares", arguments=inputs.gradients, outputs={"total": PENALTY}, bytes_per_element=4),
        case(
            op="sum_squares",
            label="clipped",
            arguments=partial(inputs.gradients, clipvalue=0.8),
            outputs={"total": PENALTY},
            bytes_per_element=4,
        ),
        modified(
            op="sgd_step",
            arguments=partial(inputs.modified, inputs.sgd_step),
            changed=stepped("w", "velocity", "average", roundings=12),
            bytes_per_element=28,
        ),
        modified(
            op="adamw_step",
            arguments=partial(inputs.modified, partial(inputs.adamw_step, decoupled=True)),
            changed=stepped("w", "m", "v", "average", roundings=12),
            bytes_per_element=36,
        ),
        Case(
            op="max_norm",
            arguments=inputs.max_norm,
            shapes=shapes.WEIGHTS,
            timed=shapes.TIMED_UNITS,
            changed={"w": LIMITED, "average": LIMITED},
            bytes_per_element=16,
        ),
        case(op="sgd_step", arguments=inputs.sgd_step, changed=stepped("w", "velocity"), bytes_per_element=20),
        adamw(label="decoupled", arguments=partial(inputs.adamw_step, decoupled=True)),
        adamw(label="coupled", arguments=partial(inputs.adamw_step, decoupled=False)),
    ]


FLOAT32_CASES: tuple[Case, ...] = (
    *_layer_norm_cases("", shapes.ROWS, shapes.TIMED_ROWS),
    *_rms_norm_cases("", shapes.ROWS, shapes.TIMED_ROWS),
    *_layer_norm_cases("axis = (-2, -1)", shapes.MATRICES, shapes.TIMED_MATRICES, axis=(-2, -1)),
    *_rms_norm_cases("axis = (-2, -1)", shapes.MATRICES, shapes.TIMED_MATRICES, axis=(-2, -1)),
    *_layer_norm_cases("axis = 1", shapes.CHANNELS_FIRST, shapes.TIMED_CHANNELS_FIRST, axis=1),
    *_rms_norm_cases("axis = 1", shapes.CHANNELS_FIRST, shapes.TIMED_CHANNELS_FIRST, axis=1),
    *_layer_norm_cases("axis = 0", shapes.LEADING, shapes.TIMED_LEADING, axis=0),
    *_rms_norm_cases("axis = 0", shapes.LEADING, shapes.TIMED_LEADING, axis=0),
    *_rms_norm_cases("gain_offset = 1", shapes.ROWS, shapes.TIMED_OPTIONS, gain_offset=1.0),
    *_batch_norm_cases("N, C", 1, shapes.COLUMNS, shapes.TIMED_COLUMNS),
    *_batch_norm_cases("N, C, ...", 1, shapes.PLANES, shapes.TIMED_PLANES),
    *_batch_norm_cases("..., C", -1, shapes.CHANNELS_LAST, shapes.TIMED_CHANNELS_LAST),
    *_ghost_batch_norm_cases("N, C", 1, shapes.COLUMNS, shapes.TIMED_COLUMNS),
    *_ghost_batch_norm_cases("N, C, ...", 1, shapes.PLANES, shapes.TIMED_PLANES),
    *_ghost_batch_norm_cases("..., C", -1, shapes.CHANNELS_LAST, shapes.TIMED_CHANNELS_LAST),
    *_group_norm_cases("N, C, ...", 1, shapes.GROUPS, shapes.TIMED_GROUPS),
    *_group_norm_cases("..., C", -1, shapes.GROUPS_LAST, shapes.TIMED_GROUPS_LAST),
    *_instance_norm_cases("N, C, ...", 1, shapes.PLANES, shapes.TIMED_INSTANCES),
    *_instance_norm_cases("..., C", -1, shapes.CHANNELS_LAST, shapes.TIMED_INSTANCES_LAST),
    *_dropout_add_norm_cases("layer_norm", 0.5),
    *_dropout_add_norm_cases("layer_norm", 0.0),
    *_dropout_add_norm_cases("rms_norm", 0.5),
    *_dropout_add_norm_cases("rms_norm", 0.0),
    *_dropout_add_norm_cases("rms_norm", 0.5, ", gain_offset = 1", shapes.TIMED_OPTIONS, gain_offset=1.0),
    *_dropout_cases(),
    *_image_cases("N, C, H, W", 1, shapes.IMAGES, shapes.TIMED_IMAGES),
    *_image_cases("N, H, W, C", -1, shapes.IMAGES_LAST, shapes.TIMED_IMAGES_LAST),
    Case(
        op="mixup_images",
        arguments=inputs.mixup_images,
        shapes=shapes.IMAGES,
        timed=shapes.TIMED_IMAGES,
        outputs={"y": MIXED},
        bytes_per_element=12,
    ),
    Case(
        op="gaussian_noise",
        arguments=inputs.gaussian_noise,
        shapes=shapes.MAPS,
        timed=shapes.TIMED_IMAGES,
        outputs={"y": NOISY},
        bytes_per_element=8,
    ),
    Case(
        op="sample_uniform",
        arguments=inputs.sample_uniform,
        shapes=shapes.MAPS,
        timed=shapes.TIMED_COLUMNS,
        outputs={"u": UNIFORM},
        bytes_per_element=8,
    ),
    *_optimizer_cases(),
)
"""Every op of the functional API, at least once."""

CASES: tuple[Case, ...] = (
    *FLOAT32_CASES,
    *(case.stored_as(dtype) for dtype in DTYPES[1:] for case in FLOAT32_CASES if dtype in case.dtypes),
)
"""Every op in every type that its tensors may have."""
