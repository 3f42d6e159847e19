"""The rules of the advisor: limits, regimes, rates and reasons, by regime and by kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GAP_LIGHT = 5.0
"""Gap in percentage points from which regularisation should be moderate."""
GAP_HEAVY = 10.0
"""Gap in percentage points above which regularisation should be heavy."""
FITTED = 80.0
"""Percent. If both accuracies are lower and the gap is small, the network underfits. The limit lies between the 60 % of
a network too small for its task and the 95 % of a good fit. With noisy labels or many classes, a lower accuracy may be
the best possible."""
GOOD = 90.0
"""Percent. With a gap under 5 and at least this training accuracy, nothing needs to change."""
INVERTED = -2.0
"""Gap in percentage points below which to suspect the measurement first: test accuracy exceeds training accuracy."""
RISE = 0.01
"""Smallest rise or fall of a smoothed loss that counts, as a fraction of it, however smooth the curve is."""
RISE_HEAVY = 0.2
"""Rise of the smoothed test loss since its minimum, as a fraction of the lowest test loss, above which regularisation
should be heavy."""
LOSS_GAP = 0.2
"""Gap between test and training loss in the best epoch, as a fraction of the test loss, from which a run without both
accuracies should get moderate regularisation. A rule of thumb: losses of different tasks do not compare."""
BATCH_NORM_FROM = 32
"""Samples per batch below which batch statistics are too noisy."""

REGIMES: Mapping[str, str] = {
    "underfit": "Underfitting: the network does not fit even its training set. Regularise less.",
    "good": "A good fit: the network generalises. Keep what you have; the remedies are safeguards.",
    "gap under 5": "A small generalisation gap; training accuracy leaves room: light regularisation, more capacity.",
    "gap 5-10": "Overfitting: moderate regularisation.",
    "gap over 10": "Strong overfitting: heavy regularisation.",
    "test above train": "The test set looks easier than the training set: find out why before changing the network.",
    "diverged": "Divergence: a loss became NaN or infinite and stayed so. First make training stable, then regularise.",
    "loss turned up": "Overfitting: the test curve got worse beyond its noise after its best epoch.",
    "loss still falling": "Not converged: the test curve still improves. Train longer before changing the network.",
    "loss gap": "Overfitting: the test loss has stopped falling well above the training loss.",
    "loss level": "Converged: the test curve has settled, and nothing shows overfitting. Light regularisation.",
}
"""The regimes in the words of the field."""


@dataclass(frozen=True)
class Rate:
    """A range of recommended values and a starting value."""

    low: float
    high: float
    start: float

    def __str__(self) -> str:
        """Return the range, such as "0.3-0.5"."""
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g}-{self.high:g}"

    def within(self, other: Rate) -> Rate:
        """Return the intersection of two ranges; if it is empty, the lower range."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        if low > high:
            return min(self, other, key=lambda rate: rate.high)
        return Rate(low, high, min(max(self.start, low), high))


@dataclass(frozen=True)
class GapRule:
    """The remedies for a regime."""

    dropout: Rate
    weight_decay: Rate
    norm: bool = False
    augmentation: bool = False
    early_stopping: bool = False


GAP_RULES: Mapping[str, GapRule] = {
    "gap over 10": GapRule(Rate(0.3, 0.5, 0.4), Rate(0.01, 0.1, 0.03), augmentation=True, early_stopping=True),
    "gap 5-10": GapRule(Rate(0.1, 0.2, 0.15), Rate(0.001, 0.01, 0.003), norm=True),
    "gap under 5": GapRule(Rate(0.05, 0.1, 0.1), Rate(1e-4, 1e-4, 1e-4)),
    "good": GapRule(Rate(0.05, 0.1, 0.1), Rate(1e-4, 1e-4, 1e-4)),
    "loss turned up": GapRule(Rate(0.1, 0.5, 0.3), Rate(0.001, 0.1, 0.01), early_stopping=True),
    "loss gap": GapRule(Rate(0.1, 0.2, 0.15), Rate(0.001, 0.01, 0.003), norm=True),
    "loss level": GapRule(Rate(0.05, 0.1, 0.1), Rate(1e-4, 1e-4, 1e-4)),
}


TURNED_UP: Mapping[bool, GapRule] = {
    False: GapRule(Rate(0.1, 0.2, 0.15), Rate(0.001, 0.01, 0.003), early_stopping=True),
    True: GapRule(Rate(0.3, 0.5, 0.4), Rate(0.01, 0.1, 0.03), early_stopping=True),
}
"""The remedies for a test loss that turned up, by whether it has risen by more than ``RISE_HEAVY`` of its minimum."""
PATIENCE = Rate(5, 20, 20)
"""Epochs without improvement after which early stopping ends the training."""


@dataclass(frozen=True)
class ModelRule:
    """Dropout, norm and code of remedies for a kind of model."""

    title: str
    dropout: Rate
    norm: str
    why_norm: str
    dropout_code: str
    norm_code: Mapping[str, str]
    augmentation_code: str


_DENSE_DROPOUT = "network = ck.Sequential(ck.Linear(784, 256), ck.ReLU(), ck.Dropout({value:g}), ck.Linear(256, 10))"
_DENSE_NORM = {
    norm: f"network = ck.Sequential(ck.Linear(784, 256), ck.{norm}(256), ck.ReLU(), ck.Linear(256, 10))"
    for norm in ("BatchNorm", "LayerNorm")
}
_BLOCK_DROPOUT = "block = ck.Sequential(ck.Linear(512, 2048), ck.GELU(), ck.Linear(2048, 512), ck.Dropout({value:g}))"
_BLOCK_NORM = {
    norm: f"block = ck.Sequential(ck.{norm}(512), ck.Linear(512, 2048), ck.GELU(), ck.Linear(2048, 512))"
    for norm in ("LayerNorm", "RMSNorm")
}
_TOKENS = "tokens = np.where(rng.random(tokens.shape) < 0.1, mask_id, tokens)  # another 10 % hidden in each epoch"
_NOISE = "x = x + 0.1 * rng.standard_normal(x.shape, dtype=np.float32)  # drawn anew for each batch"

ANY_MODEL = ModelRule(
    title="any model",
    dropout=Rate(0.0, 1.0, 0.5),
    norm="LayerNorm",
    why_norm="It does not depend on the batch size; in CNNs and MLPs with batches of 32 and more BatchNorm is usual.",
    dropout_code=_DENSE_DROPOUT,
    norm_code=_DENSE_NORM,
    augmentation_code=_NOISE,
)

MODELS: Mapping[str, ModelRule] = {
    "mlp": ModelRule(
        title="MLPs",
        dropout=Rate(0.5, 0.5, 0.5),
        norm="BatchNorm",
        why_norm="Batch statistics make the loss smoother and allow higher learning rates in stacks of dense layers.",
        dropout_code=_DENSE_DROPOUT,
        norm_code=_DENSE_NORM,
        augmentation_code=_NOISE,
    ),
    "cnn": ModelRule(
        title="CNNs",
        dropout=Rate(0.2, 0.3, 0.25),
        norm="BatchNorm",
        why_norm="A channel has a value for each pixel of each image, so its batch statistics are well estimated.",
        dropout_code="drop = ck.SpatialDropout({value:g})  # then x = drop(x) on feature maps of shape (N, C, H, W)",
        norm_code={
            "BatchNorm": "norm = ck.BatchNorm(64)  # then x = norm(x) on 64 feature maps, x of shape (N, 64, H, W)",
            "LayerNorm": "norm = ck.LayerNorm(64)  # then x = norm(x), channels last: x of shape (N, H, W, 64)",
        },
        augmentation_code="x = np.where(rng.random((len(x), 1, 1, 1)) < 0.5, x[..., ::-1], x)  # flips half the images",
    ),
    "transformer": ModelRule(
        title="Transformers",
        dropout=Rate(0.1, 0.1, 0.1),
        norm="LayerNorm",
        why_norm="Each token is normalised on its own: any length, any batch size, the same in training and inference.",
        dropout_code=_BLOCK_DROPOUT,
        norm_code=_BLOCK_NORM,
        augmentation_code=_TOKENS,
    ),
    "llm": ModelRule(
        title="LLMs",
        dropout=Rate(0.1, 0.1, 0.1),
        norm="RMSNorm",
        why_norm="LayerNorm without the mean, which adds little but costs time (as in LLaMA and Mistral).",
        dropout_code=_BLOCK_DROPOUT,
        norm_code=_BLOCK_NORM,
        augmentation_code=_TOKENS,
    ),
}

OPTIMIZERS: Mapping[str, str] = {
    "sgd": "optimizer = ck.train.SGD(network, lr=0.01, momentum=0.9, weight_decay={value:g})",
    "adam": "optimizer = ck.train.AdamW(network, lr=0.001, weight_decay={value:g})",
}
"""Code of weight decay by optimiser; Adam users get AdamW."""
SLOWER: Mapping[str, str] = {
    "sgd": "optimizer = ck.train.SGD(network, lr=0.001, momentum=0.9)",
    "adam": "optimizer = ck.train.AdamW(network, lr=0.0001)",
}
"""Code of a tenth of the usual learning rate by optimiser."""

IMPORTS = "import numpy as np; import cregkit as ck, cregkit.train; rng = np.random.default_rng()"
"""The imports that precede the code of any remedy."""

EARLY_STOPPING_CODE = (
    "ck.train.fit(network, loss, optimizer, (x, y), (x_val, y_val), epochs=1000, "
    "callbacks=[ck.train.EarlyStopping(patience={value:g})])"
)
LONGER_CODE = "ck.train.fit(network, loss, optimizer, (x, y), (x_val, y_val), epochs=1000)"
WIDER_CODE = "network = ck.Sequential(ck.Linear(784, 1024), ck.ReLU(), ck.Linear(1024, 10))  # without dropout"
EVALUATE_CODE = "train_acc = 100 * (network.eval()(x).argmax(axis=1) == y).mean()"
LEAK_CODE = "shared = {row.tobytes() for row in x} & {row.tobytes() for row in x_val}  # must be empty"

WHY_DROPOUT = "No neuron can rely on particular others when each is dropped at random in training."
WHY_DECAY = (
    "Large weights fit noise; decay keeps a weight small unless the data need it large. Biases and gains do not decay."
)
WHY_ADAMW = "AdamW, not Adam: in Adam the decay is divided by sqrt(v), so weights with large gradients hardly decay."
WHY_AUGMENTATION = (
    "A network that never sees the same sample twice cannot overfit it: transform strongly, keep the labels."
)
WHY_SLOWER = "Steps that are too large make the loss grow: a tenth of the rate, or a warm-up, keeps it finite."
WHY_LONGER = "The curve has not reached its minimum: what it shows about overfitting is not final."
WHY_STOPPING = "Keeps the weights of the epoch with the lowest validation loss, before overfitting started."
WHY_SMALL_BATCH = "Not BatchNorm: the statistics of batches under 32 are noisy. LayerNorm does not use the batch."
