"""A character-level language model: LayerNorm and RMSNorm, Post-LN and Pre-LN, with and without dropout."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cregkit.benchmark.timing import Measurement
from cregkit.lab import figures
from cregkit.lab.experiments.words import compared
from cregkit.lab.framework import Claim, Column, Experiment, Row, Table, Trial, difference_of
from cregkit.lab.text import Text, read_text
from cregkit.layers import Transformer
from cregkit.layers.base import Array
from cregkit.train import AdamW, softmax_cross_entropy

CHARACTERS, LENGTH, BATCH, STEPS = 40_000, 64, 16, 25
LAYERS, WIDTH, HEADS = 2, 64, 4
LR = 2e-3
TEST_BATCHES = 8
SAMPLE = 60
NORMS = {"LayerNorm": "layer", "RMSNorm": "rms"}
ORDERS = {"Post-LN": False, "Pre-LN": True}
RATES = ("0", "0.1")
OWN: list[Row] = [("cregkit", *labels) for labels in itertools.product(NORMS, ORDERS, RATES)]
PYTORCH: Row = ("PyTorch", "LayerNorm", "Post-LN", "0.1")
ROWS = [*OWN, PYTORCH] if importlib.util.find_spec("torch") else OWN
POST_LN: Row = ("cregkit", "LayerNorm", "Post-LN", "0")
PRE_LN: Row = ("cregkit", "LayerNorm", "Pre-LN", "0")
TWIN: Row = ("cregkit", *PYTORCH[1:])

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


class Model(NamedTuple):
    """A model for the training loop: a step on a batch, and the loss of a batch, both in nats per character."""

    step: Callable[[Batch], float]
    loss: Callable[[Batch], float]


@functools.cache
def _text() -> Text:
    return read_text(CHARACTERS)


def _batch(codes: NDArray[np.int64], rng: np.random.Generator) -> Batch:
    starts = rng.integers(0, len(codes) - LENGTH, BATCH)
    windows = codes[starts[:, None] + np.arange(LENGTH + 1)]
    return windows[:, :-1], windows[:, 1:]


def _trials(seed: int, epochs: int) -> Iterator[Trial]:
    text = _text()
    split = len(text.codes) * 9 // 10
    train, test = text.codes[:split], text.codes[split:]
    for row in ROWS:
        library, norm, order, rate = row
        network = Transformer(
            len(text.alphabet), LENGTH, LAYERS, WIDTH, HEADS, dropout=float(rate), norm=NORMS[norm],
            norm_first=ORDERS[order], activation="relu", causal=True, seed=seed,
        )  # fmt: skip
        model = _pytorch(network, seed) if library == "PyTorch" else _cregkit(network)
        batches, test_batches = (np.random.default_rng([seed, stream]) for stream in (0, 1))
        held_out = [_batch(test, test_batches) for _ in range(TEST_BATCHES)]
        curves: dict[str, list[float]] = {"train_loss": [], "test_loss": []}
        seconds = []
        for _ in range(epochs):
            losses = []
            for _ in range(STEPS):
                batch = _batch(train, batches)
                start = time.perf_counter()
                losses.append(model.step(batch))
                seconds.append(time.perf_counter() - start)
            curves["train_loss"].append(float(np.mean(losses)))
            curves["test_loss"].append(float(np.mean([model.loss(batch) for batch in held_out])))
        step = Measurement.of(seconds).quartile
        values = {name: curve[-1] for name, curve in curves.items()}
        if library == "cregkit":
            curves["sample"] = list(map(float, _sample(network, test[:LENGTH], seed)))
        yield Trial(row, {**values, "ms": 1e3 * step, "rate": BATCH * LENGTH / step / 1e3}, curves)


def _cregkit(network: Transformer) -> Model:
    optimizer = AdamW(network, lr=LR, weight_decay=0.01)

    def evaluate(batch: Batch) -> tuple[float, Array]:
        ids, following = batch
        scores = network.forward(ids)
        loss, gradient = softmax_cross_entropy(scores.reshape(-1, scores.shape[-1]), following.ravel())
        return loss, gradient.reshape(scores.shape)

    def step(batch: Batch) -> float:
        network.train()
        loss, gradient = evaluate(batch)
        network.backward(gradient)
        optimizer.step()
        return loss

    def loss(batch: Batch) -> float:
        network.eval()
        return evaluate(batch)[0]

    return Model(step, loss)


def _pytorch(network: Transformer, seed: int) -> Model:
    """Return the same model in PyTorch, with the same initial weights, on one thread."""
    torch = importlib.import_module("torch")
    torch.manual_seed(seed)
    rate = network.dropout.p
    build = functools.partial(torch.nn.TransformerEncoderLayer, WIDTH, HEADS, 4 * WIDTH, rate, "relu", batch_first=True)
    parts = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(network.embedding.num_embeddings, WIDTH),
            "positions": torch.nn.Embedding(LENGTH, WIDTH),
            "dropout": torch.nn.Dropout(rate),
            "blocks": torch.nn.ModuleList([build() for _ in network.blocks]),
            "head": torch.nn.Linear(WIDTH, network.embedding.num_embeddings),
        }
    )
    with torch.no_grad():
        for own, theirs in zip(_in_pytorchs_order(network), parts.parameters(), strict=True):
            theirs.copy_(torch.from_numpy(own))
    decayed = [p for p in parts.parameters() if p.ndim > 1]
    groups = [{"params": decayed}, {"params": [p for p in parts.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=0.01)
    future = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1)

    def evaluate(batch: Batch) -> Any:
        ids, following = map(torch.from_numpy, batch)
        h = parts["dropout"](parts["embedding"](ids) + parts["positions"].weight)
        for block in parts["blocks"]:
            h = block(h, src_mask=future)
        return torch.nn.functional.cross_entropy(parts["head"](h).flatten(0, 1), following.flatten())

    def threads(call: Callable[[Batch], float]) -> Callable[[Batch], float]:
        """Limit PyTorch to one thread during a call."""

        def limited(batch: Batch) -> float:
            before = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                return call(batch)
            finally:
                torch.set_num_threads(before)

        return limited

    def step(batch: Batch) -> float:
        parts.train()
        loss = evaluate(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def loss(batch: Batch) -> float:
        parts.eval()
        with torch.no_grad():
            return float(evaluate(batch))

    return Model(threads(step), threads(loss))


def _in_pytorchs_order(network: Transformer) -> Iterator[Array]:
    """Yield the parameters in PyTorch's order."""
    values = {parameter.name: parameter.value for parameter in network.parameters()}
    yield from (values["embedding.weight"], values["positions.weight"])
    for index, block in enumerate(network.blocks):
        last = len(block.ff.layers) - 1
        for part in ("attention.qkv", "attention.out", "ff.0", f"ff.{last}"):
            yield from (values[f"blocks.{index}.{part}.{kind}"] for kind in ("weight", "bias"))
        for norm in ("norm1", "norm2"):
            yield from (values[f"blocks.{index}.{norm}.{kind}"] for kind in ("gamma", "beta"))
    yield from (values["head.weight"], values["head.bias"])


def _sample(network: Transformer, start: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Sample a continuation of ``start`` from the network, character by character."""
    network.eval()
    rng = np.random.default_rng([seed, 2])
    codes = list(start)
    for _ in range(SAMPLE):
        scores = network.forward(np.array(codes[-LENGTH:])[None])[0, -1].astype(np.float64)
        share = np.exp(scores - scores.max())
        codes.append(rng.choice(len(share), p=share / share.sum()))
    return np.array(codes[-SAMPLE:])


def _best(table: Table) -> Row:
    return min((row for row in table.rows if row[0] == "cregkit"), key=lambda row: table.mean(row, "test_loss"))


def _conclude(table: Table) -> str:
    best = _best(table)
    sample = _text().decode(table.curves(best, "sample")[0].astype(np.int64))
    sentence = (
        f"The lowest test loss is that of {', '.join(best[1:3])} with dropout {best[3]}, "
        f"{table.mean(best, 'test_loss'):.2f} nats per character"
    )
    if PYTORCH in table.trials:
        difference = difference_of(TWIN, PYTORCH, "test_loss")(table)
        ratio = table.mean(PYTORCH, "ms") / table.mean(TWIN, "ms")
        sentence += (
            f"; with the same initial weights the speed-up over PyTorch is {ratio:.2f}x per step, and the loss is "
            f"{compared(difference, unit='nats', decimals=3)}"
        )
    return f"{sentence}; a sample of its text: {sample.strip()!r}."


def _draw(figure: Any, table: Table) -> None:
    axes = figure.subplots(2, 1)
    for ax, order in zip(axes, ORDERS, strict=True):
        rows = [row for row in table.rows if row[0] == "cregkit" and row[2] == order]
        for row, colour in zip(rows, figures.PALETTE, strict=False):
            curves = table.curves(row, "test_loss")
            figures.curve_band(ax, curves, colour, f"{row[1]}, dropout {row[3]}")
        figures.title(ax, f"{order}: test loss (nats per character) every {STEPS} steps")
        figures.tidy(ax)
    figures.legend_below(figure, axes[0])


EXPERIMENT = Experiment(
    name="transformer",
    question="Which norm, in which position, with how much dropout, is best for a small language model?",
    setup=(
        f"characters of the module this and the licences of Python and NumPy, the last tenth for the test; {LAYERS} "
        f"blocks of width {WIDTH}, {HEADS} heads, {BATCH} x {LENGTH} characters per step, {STEPS} steps an epoch, AdamW"
    ),
    seeds=3,
    epochs=8,
    labels=("library", "norm", "order", "dropout"),
    rows=ROWS,
    columns=(
        Column("train_loss", "train loss", 3),
        Column("test_loss", "test loss", 3),
        Column("ms", "ms per step"),
        Column("rate", "1000 tokens/s"),
    ),
    trials=_trials,
    conclude=_conclude,
    claims=(
        Claim(
            "Without warm-up, Pre-LN learns faster than Post-LN",
            difference_of(POST_LN, PRE_LN, "train_loss"),
            "nats",
            decimals=3,
        ),
        Claim(
            "RMSNorm is as good as LayerNorm (Pre-LN, within 0.05 nats)",
            difference_of(("cregkit", "RMSNorm", "Pre-LN", "0"), PRE_LN, "test_loss"),
            "nats",
            least=-0.05,
            most=0.05,
            decimals=3,
        ),
    ),
    draw=_draw,
)
