"""What cregkit changes in the result of a training: the loss and accuracy at its end, digits at offsets, threads.

    python bench/bench_training.py                    # eight minutes on two cores
    python bench/bench_training.py --quick            # under two minutes: fewer seeds and epochs
    python bench/bench_training.py --only digits      # parts whose name contains digits
    python bench/bench_training.py --record           # store the figures for bench/render.py

Trainings: a CNN, a transformer and an MLP are trained from the same initial weights, in the same order of the samples,
in each state: stock PyTorch, after ``convert``, and in an ``enable`` block if the native library is built. cregkit and
PyTorch draw other dropout masks from the same seed, so the curves differ as those of two seeds do. The states take
epochs in turn (A, B, C, B, C, A ...), so that other processes slow down all of them.

Offsets: a regression on arrival times far from 0, with a LayerNorm of the times in front, beside the same training in
float64. The times are exact in float32, and so are those of the centred run, which subtracts the first one of each row.

Threads: one training on 1, 2 and 3 threads. Losses of the steps and final weights are compared bit by bit; single ops
show which ones depend on the number of threads. ``cregkit.train.fit``, with NumPy's products, is compared too. The bias
in front of a batch norm has a gradient of rounding errors alone, which Adam scales up: such weights differ most.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import record
import torch
import torch.nn.functional as F
import training_report as report
from sklearn import datasets
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from training_report import CENTRED, CONVERT, ENABLE, FLOAT64, STOCK

import cregkit as ck
import cregkit.torch
from cregkit.kernels._threads import exact_threads
from cregkit.lab.text import read_text
from cregkit.torch.dispatch import library
from cregkit.train import AdamW, fit, softmax_cross_entropy

STATES = (STOCK, CONVERT, ENABLE) if library else (STOCK, CONVERT)
OURS = STATES[-1]
SEEDS, QUICK_SEEDS = 10, 2
THREADS = (1, 1, 2, 3)  # a repetition on one thread first: what differs there is not due to the threads
Data = tuple[Tensor, Tensor]

# ---- models and data ----


def digits(shape: tuple[int, ...] = (1, 8, 8)) -> tuple[Data, Data]:
    """Return scikit-learn's 1797 images of digits, 540 of them for the test."""
    x, y = datasets.load_digits(return_X_y=True)
    return split((x / 16).reshape(-1, *shape), y)


def breast_cancer() -> tuple[Data, Data]:
    """Return 569 tumours with 30 standardised features, 171 of them for the test."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return split((x - x.mean(0)) / x.std(0), y)


def split(x: Any, y: Any) -> tuple[Data, Data]:
    parts = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    x_train, x_test = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    y_train, y_test = map(torch.from_numpy, parts[2:])
    return (x_train, y_train), (x_test, y_test)


@functools.cache
def alphabet_and_codes() -> tuple[str, Tensor]:
    text = read_text(40_000)
    return text.alphabet, torch.from_numpy(text.codes)


def text(length: int = 64) -> tuple[Data, Data]:
    """Return windows of the text of licences, and the characters that follow; its last tenth is for the test."""
    windows = alphabet_and_codes()[1].unfold(0, length + 1, length)
    both = windows[:, :-1], windows[:, 1:]
    n = len(windows) * 9 // 10
    return (both[0][:n], both[1][:n]), (both[0][n:], both[1][n:])


def cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((1, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.Dropout(0.25)]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10))


def mlp(features: int, hidden: int, classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before in (features, hidden):
        layers += [nn.Linear(before, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


class CharacterModel(nn.Module):
    """A causal transformer of two pre-norm layers that predicts the next character."""

    def __init__(self, length: int = 64, features: int = 64) -> None:
        super().__init__()
        characters = len(alphabet_and_codes()[0])
        self.embedding, self.positions = nn.Embedding(characters, features), nn.Embedding(length, features)
        self.dropout = nn.Dropout(0.1)
        layer = functools.partial(nn.TransformerEncoderLayer, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.ModuleList(layer(features, 4, 4 * features, 0.1) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(features), nn.Linear(features, characters)
        self.register_buffer("future", torch.ones(length, length, dtype=torch.bool).triu(1))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.dropout(self.embedding(ids) + self.positions.weight)
        for layer in self.layers:
            x = layer(x, src_mask=self.future)
        scores: Tensor = self.head(self.norm(x))
        return scores


def cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(scores.flatten(0, -2), targets.flatten())


@dataclass(frozen=True)
class Task:
    """What is trained on which data, and how long."""

    name: str
    data: Callable[[], tuple[Data, Data]]
    model: Callable[[], nn.Module]
    batch_size: int
    epochs: int
    lr: float
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy


TRAININGS = (
    Task("digits, CNN", digits, cnn, 64, 16, 2e-3),
    Task("text, transformer", text, CharacterModel, 16, 24, 2e-3),
    Task("breast cancer, MLP", breast_cancer, lambda: mlp(30, 128, 2), 32, 24, 1e-3),
)
WIDE = Task("digits, MLP of 256 columns", lambda: digits((64,)), lambda: mlp(64, 256, 16), 419, 20, 2e-3)
"""With 419 rows, the kernels use up to three threads. MKL's products of these sizes do not depend on the number of
threads. With 10 outputs they do on Zen 4, so there are 16, six of them unused."""

# ---- one training ----


def become(state: str) -> AbstractContextManager[Any]:
    return cregkit.torch.enable() if state == ENABLE else nullcontext()


class Training:
    """The training of a model in one state; epochs of several trainings may alternate."""

    def __init__(self, task: Task, state: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.task, self.state, self.seed = task, state, seed
        model = task.model()
        self.model = cregkit.torch.convert(model) if state == CONVERT else model
        self.train, self.test = task.data()
        if state == FLOAT64:
            self.model = model.double()
            self.train, self.test = ((x.double(), y.double()) for x, y in (self.train, self.test))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), task.lr)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, task.epochs)

    def steps(self, epoch: int) -> Iterator[float]:
        """Yield the losses of an epoch's steps; the seed of its order and masks depends on seed and epoch alone."""
        torch.manual_seed(1000 * self.seed + epoch)
        self.model.train()
        x, y = self.train
        for rows in torch.randperm(len(x)).split(self.task.batch_size):
            loss = self.task.loss(self.model(x[rows]), y[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            yield float(loss.detach())
        self.schedule.step()

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Return the loss and the accuracy (in percent) of the test set."""
        self.model.eval()
        x, y = self.test
        outputs = self.model(x)
        accuracy = 100 * float((outputs.argmax(-1) == y).double().mean()) if outputs.shape[-1] > 1 else float("nan")
        return float(self.task.loss(outputs, y)), accuracy

    def weights(self) -> list[Tensor]:
        return [value.detach().clone() for value in self.model.state_dict().values()]


def rotated(states: Sequence[str], by: int) -> list[str]:
    return [*states[by % len(states) :], *states[: by % len(states)]]


def compare(task: Task, states: Sequence[str], seed: int) -> dict[str, dict[str, list[float]]]:
    """Train in all states, an epoch of each in turn; return a value for each epoch: losses, accuracy, seconds."""
    trainings = {state: Training(task, state, seed) for state in states}
    curves: dict[str, dict[str, list[float]]] = {
        state: {"train_loss": [], "test_loss": [], "accuracy": [], "seconds": []} for state in states
    }
    for epoch in range(task.epochs):
        for state in rotated(states, epoch):
            with become(state):
                start = time.perf_counter()
                losses = list(trainings[state].steps(epoch))
                seconds = time.perf_counter() - start
                loss, accuracy = trainings[state].evaluate()
            values = float(np.mean(losses)), loss, accuracy, seconds
            for curve, value in zip(curves[state].values(), values, strict=True):
                curve.append(float(f"{value:.7g}"))
    return curves


def by_state(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Return, for each state and quantity, the curves of the seeds."""
    return {state: {name: [run[state][name] for run in runs] for name in runs[0][state]} for state in runs[0]}


def train(task: Task, states: Sequence[str], seeds: int) -> dict[str, Any]:
    compare(replace(task, epochs=1), states, seed=0)  # what PyTorch and the kernels prepare in their first calls
    runs = [compare(task, states, seed) for seed in range(seeds)]
    steps = -(-len(task.data()[0][0]) // task.batch_size)
    return {"steps_per_epoch": steps, "states": by_state(runs)}


# ---- offsets ----

TICK = 1 / 128  # seconds; float32 represents multiples of it exactly up to 131072
EVENTS = 32


@functools.cache
def arrivals(offset: float, centred: bool) -> tuple[Data, Data]:
    """Return the times of 32 arrivals, about a second long, and how much slower the second half is than the first.

    The first arrivals are between ``offset`` and 1.2 times as many seconds. The target is the logarithm of the ratio of
    the durations, standardised: a function of the times alone, without noise.
    """
    rng = np.random.default_rng(0)
    n = 4096 + 1024
    slower = np.exp(rng.normal(0, 0.5, (n, 1)))
    means = np.repeat(np.hstack([np.ones((n, 1)), slower]), EVENTS // 2, axis=1) * 4
    times = (1 + rng.poisson(means)).cumsum(axis=1) * TICK
    target = np.log((times[:, -1] - times[:, EVENTS // 2]) / (times[:, EVENTS // 2 - 1] - times[:, 0]))
    target = (target - target.mean()) / target.std()
    start = np.round(rng.uniform(offset, 1.2 * offset, (n, 1)) / TICK) * TICK
    times = times - times[:, :1] if centred else times + start
    x, y = torch.tensor(times, dtype=torch.float32), torch.tensor(target[:, None], dtype=torch.float32)
    return (x[:4096], y[:4096]), (x[4096:], y[4096:])


def regression() -> nn.Module:
    hidden = [nn.Linear(EVENTS, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU()]
    return nn.Sequential(nn.LayerNorm(EVENTS), *hidden, nn.Linear(64, 1))


def offsets(seeds: int, epochs: int) -> dict[str, Any]:
    """Train on times around each offset; return the curves of the test loss of each state."""
    task = Task("", lambda: arrivals(0.0, centred=True), regression, 128, epochs, 3e-3, F.mse_loss)
    centred = [compare(task, (STOCK,), seed)[STOCK]["test_loss"] for seed in range(seeds)]
    found = {}
    for offset in (1e3, 1e4, 1e5):
        at_offset = replace(task, data=lambda at=offset: arrivals(at, centred=False))
        runs = by_state([compare(at_offset, (STOCK, OURS, FLOAT64), seed) for seed in range(seeds)])
        found[f"{offset:g}"] = {state: of["test_loss"] for state, of in runs.items()} | {CENTRED: centred}
    return found


# ---- threads ----


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest absolute difference; 0 means the same bits, as no value here is -0 or NaN in one run only."""
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True))


def deviation(losses: Sequence[float], expected: Sequence[float]) -> dict[str, Any]:
    """Return the first step whose loss differs (from 0; None if none does), by how much, and the largest difference."""
    differences = [abs(a - b) for a, b in zip(losses, expected, strict=True)]
    first = next((step for step, found in enumerate(differences) if found), None)
    return {"first": first, "at_first": 0.0 if first is None else differences[first], "largest": max(differences)}


def on_threads(task: Task, state: str) -> Iterator[dict[str, Any]]:
    """Train on each number of threads; yield how losses and weights differ from those of the first run."""
    runs = []
    for n in THREADS:
        torch.set_num_threads(n)
        training = Training(task, state, seed=0)
        with become(state):
            losses = [loss for epoch in range(task.epochs) for loss in training.steps(epoch)]
        runs.append((losses, training.weights()))
    for n, (losses, weights) in zip(THREADS[1:], runs[1:], strict=True):
        yield {"threads": n, **deviation(losses, runs[0][0]), "weights": difference(weights, runs[0][1])}


OPS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LayerNorm": (lambda: nn.LayerNorm(64), (1024, 64)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(256), (419, 256)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(32), (64, 32, 8, 8)),
    "GroupNorm": (lambda: nn.GroupNorm(8, 32), (64, 32, 8, 8)),
    "Dropout": (lambda: nn.Dropout(0.3), (419, 256)),
    "Linear of 419 rows": (lambda: nn.Linear(256, 256), (419, 256)),
    "Linear of 1024 rows": (lambda: nn.Linear(64, 256), (1024, 64)),
    "Conv2d": (lambda: nn.Conv2d(32, 32, 3, padding=1), (64, 32, 8, 8)),
}


def results_of(op: Callable[[], nn.Module], shape: tuple[int, ...], threads: int) -> dict[str, list[Tensor]]:
    """Return the output, its gradients for random ones of the output, and running statistics."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module = op()
    x = torch.randn(shape, requires_grad=True)
    y = module(x)
    y.backward(torch.randn(y.shape))
    gradients = {f"gradient of {name}": [p.grad] for name, p in module.named_parameters()}
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    return {"output": [y.detach()], "gradient of x": [x.grad], **gradients, "running statistics": buffers}


def single_ops() -> Iterator[dict[str, Any]]:
    """Yield which results of each op depend on the number of threads, stock and ours, and by how much."""
    for name, (op, shape) in OPS.items():
        row: dict[str, Any] = {"op": name, "shape": list(shape)}
        for state in (STOCK, ENABLE) if library else (STOCK,):
            with become(state):
                first, *others = (results_of(op, shape, n) for n in THREADS)
            found = {key: max(difference(r[key], first[key]) for r in others) for key in first if first[key]}
            row[state] = {key: value for key, value in found.items() if value}
        yield row


def fit_losses(threads: int, blas: int, epochs: int) -> tuple[list[float], list[Tensor]]:
    """Train the wide MLP by ``cregkit.train.fit``; return the losses of the epochs and the weights."""
    (x, y), (x_test, y_test) = ((part[0].numpy(), part[1].numpy()) for part in digits((64,)))
    layers: list[ck.Layer] = []
    for index, before in enumerate((64, 256)):
        linear = ck.Linear(before, 256, seed=index)
        layers += [linear, ck.BatchNorm(256), ck.ReLU(), ck.Dropout(0.3, seed=10 + index)]
    network = ck.Sequential(*layers, ck.Linear(256, 10, seed=2))
    with exact_threads(threads), threadpool_limits(blas, user_api="blas"):
        history = fit(
            network, softmax_cross_entropy, AdamW(network, lr=2e-3), (x, y), (x_test, y_test), epochs,
            batch_size=WIDE.batch_size, seed=0,
        )  # fmt: skip
    weights = [torch.from_numpy(parameter.value.copy()) for parameter in network.parameters()]
    return [*history.train_loss, *history.test_loss], weights


def numpy_fit(epochs: int) -> Iterator[dict[str, Any]]:
    """Yield how ``fit`` on other numbers of threads, of the kernels alone and of BLAS too, differs from one thread."""
    losses, weights = fit_losses(1, 1, epochs)
    for which, n in itertools.product(("kernels", "kernels and BLAS"), sorted({*THREADS} - {1})):
        found, final = fit_losses(n, n if which != "kernels" else 1, epochs)
        yield {"of": which, "threads": n, **deviation(found, losses), "weights": difference(final, weights)}


def threads(epochs: int) -> dict[str, Any]:
    """Compare runs on several numbers of threads; PyTorch's number is restored."""
    tasks = [replace(task, epochs=epochs) for task in (WIDE, *TRAININGS[:2])]
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        models = [
            {"name": task.name, "state": state, "runs": list(on_threads(task, state))}
            for task in tasks
            for state in (STATES[0], OURS)
        ]
        return {"models": models, "ops": list(single_ops()), "fit": list(numpy_fit(epochs))}


# ---- the command ----


def parts(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what is measured, by name: functions of figures by kind."""
    seeds = QUICK_SEEDS if quick else SEEDS

    def training(task: Task) -> dict[str, Any]:
        task = replace(task, epochs=task.epochs // 2) if quick else task
        return {"trainings": {task.name: train(task, STATES, seeds)}}

    return {
        **{task.name: functools.partial(training, task) for task in TRAININGS},
        "offsets": lambda: {"offsets": offsets(seeds, 10 if quick else 40)},
        "threads": lambda: {"threads": threads(1 if quick else 3)},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEEDS} seeds, fewer epochs")
    parser.add_argument("--only", default="", metavar="TEXT", help="parts with TEXT in their name")
    record.add_option(parser)
    asked = parser.parse_args(arguments)
    chosen = [part for name, part in parts(asked.quick).items() if asked.only in name]
    if not chosen:
        parser.error(f"argument --only: must be part of one of {'; '.join(parts(False))}, got {asked.only!r}")
    before = record.circumstances()
    print(f"{before['cpu']}, {before['isa']}, {torch.get_num_threads()} threads, load {before['load']}\n")
    figures: dict[str, Any] = {}
    for part in chosen:
        found = part()
        print(report.table({"circumstances": before, "figures": found}), flush=True)
        for kind, news in found.items():
            figures.setdefault(kind, {}).update(news)
    if asked.record:
        record.store(asked.record, "training", before, figures)


if __name__ == "__main__":
    main()
