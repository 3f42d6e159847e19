"""The experiments, one module each, by name in ``EXPERIMENTS``."""

from __future__ import annotations

from cregkit.lab.experiments import (
    augmentation,
    batch_size,
    batchnorm_lr,
    constraints,
    early_stopping,
    label_smoothing,
    ln_vs_rms,
    mlp,
    overfit,
    random_labels,
    spatial_dropout,
    transformer,
)
from cregkit.lab.framework import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        overfit,
        random_labels,
        spatial_dropout,
        label_smoothing,
        constraints,
        batchnorm_lr,
        early_stopping,
        ln_vs_rms,
        batch_size,
        mlp,
        transformer,
        augmentation,
    )
}
