"""The cost of dropout in a PyTorch training step, stock, after ``cregkit.torch.convert`` and with ``enable``.

    python bench/bench_torch.py              # a few minutes
    python bench/bench_torch.py --quick      # under a minute, noisier
    python bench/bench_torch.py --only MLP   # rows whose name contains MLP
    python bench/bench_torch.py --overhead   # single ops at small sizes: the break-even point of the kernels
    python bench/bench_torch.py --record     # keep the figures in bench/results/

One model takes training steps in four states in turn (A, B, C, D, A, B ...) in one process: stock PyTorch with
dropout, stock PyTorch without dropout, converted with dropout, and stock with dropout in an ``enable`` block. Ratios
are ratios of medians to the step without dropout. Gradients are checked first: without dropout, those of the converted
model must equal PyTorch's up to rounding.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from record import add_option, circumstances, machine, store
from torch import Tensor, nn

import cregkit
import cregkit.torch
from cregkit.benchmark.timing import Contestant, Measurement, measure
from cregkit.torch import bridge

STOCK, WITHOUT, OURS, ENABLED = "stock", "stock without dropout", "converted", "enabled"


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward network, each followed by dropout, residual addition and layer norm."""

    def __init__(self, features: int, heads: int, dropout: float, need_weights: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(features, heads, dropout=dropout)
        self.attended = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(features)
        self.feed = nn.Sequential(
            nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features), nn.Dropout(dropout)
        )
        self.norm2 = nn.LayerNorm(features)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x, need_weights=self.need_weights)
        x = self.norm1(x + self.attended(attended))
        return self.norm2(x + self.feed(x))


def encoder_layer(norm_first: bool = False) -> nn.Module:
    return nn.TransformerEncoderLayer(512, 8, 2048, 0.1, "gelu", batch_first=True, norm_first=norm_first)


class FunctionalBlock(nn.Module):
    """A pre-norm block as GPT-2 and BERT are written by hand: functional dropout, scaled dot-product attention."""

    def __init__(self, features: int, heads: int, p: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.qkv, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.feed = nn.Sequential(nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features))
        self.heads, self.p = heads, p

    def forward(self, x: Tensor) -> Tensor:
        n, length, features = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv, dropout_p=self.p, is_causal=True)
        x = x + F.dropout(self.out(attended.transpose(1, 2).reshape(n, length, features)), self.p)
        return x + F.dropout(self.feed(self.norm2(x)), self.p)


class Recurrent(nn.LSTM):
    """The outputs of an LSTM alone."""

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = super().forward(x)[0]
        return outputs


class InBfloat16(nn.Module):
    """A module under CPU autocast."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = self.module(x)
        return y


def conv_block() -> nn.Module:
    return nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Dropout(0.3))


def mlp() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((784, 256), (256, 128)):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(128, 10))


@dataclass(frozen=True)
class Workload:
    """A model, its input shape, whether the input needs a gradient (``inner``), and the limit of the ratio."""

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    inner: bool
    limit: float
    against: str = WITHOUT
    tolerance: float = 1e-4  # of gradients, relative to the largest


WORKLOADS = (
    Workload("Conv-BatchNorm-ReLU-Dropout (32, 64, 56, 56)", conv_block, (32, 64, 56, 56), True, 1.03),
    Workload("MLP 784-256-128-10, batch 256", mlp, (256, 784), False, 1.05),
    Workload("MLP 784-256-128-10, batch 2048", mlp, (2048, 784), False, 1.05),
    Workload("TransformerBlock(512, 8), 8 x 128", lambda: TransformerBlock(512, 8, 0.1), (128, 8, 512), True, 1.0),
    Workload(
        "TransformerBlock, need_weights=False", lambda: TransformerBlock(512, 8, 0.1, False), (128, 8, 512), True, 1.0
    ),
    Workload("TransformerEncoderLayer(512, 8), 8 x 128", encoder_layer, (8, 128, 512), True, 1.0),
    Workload("TransformerEncoderLayer, Pre-LN", lambda: encoder_layer(norm_first=True), (8, 128, 512), True, 1.0),
    Workload("MLP 784-256-128-10, batch 8", mlp, (8, 784), False, 1.0, STOCK),
    Workload("GPT-2 block(512, 8), 8 x 128", lambda: FunctionalBlock(512, 8, 0.1), (8, 128, 512), True, 1.05),
    Workload(
        "GPT-2 block, bfloat16 autocast",
        lambda: InBfloat16(FunctionalBlock(512, 8, 0.1)),
        (8, 128, 512),
        inner=True,
        limit=1.05,
        tolerance=3e-2,
    ),
    Workload(
        "LSTM(256, 256), 2 layers, 32 x 64", lambda: Recurrent(256, 256, 2, dropout=0.3), (64, 32, 256), True, 1.05
    ),
)


RATES = ((nn.Dropout, "p"), (nn.MultiheadAttention, "dropout"), (nn.LSTM, "dropout"), (FunctionalBlock, "p"))


def dropout_rates(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """Yield every dropout rate of a model: the module, the attribute's name and its value."""
    for module in model.modules():
        for kind, name in RATES:
            if isinstance(module, kind):
                yield module, name, getattr(module, name)


def without_dropout(model: nn.Module) -> nn.Module:
    for module, name, _ in dropout_rates(model):
        setattr(module, name, 0.0)
    return model


def training_step(model: nn.Module, shape: tuple[int, ...], inner: bool) -> Callable[[], None]:
    """Return a step of forward, backward and SGD; lr is 0, because a fixed gradient makes a model diverge."""
    torch.manual_seed(1)
    x = torch.randn(shape, requires_grad=inner)
    with torch.no_grad():
        gradient = torch.randn_like(copy.deepcopy(model)(x))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        x.grad = None
        model(x).backward(gradient)
        optimizer.step()

    return step


def check(workload: Workload) -> None:
    """Raise if the gradients of a converted model without dropout differ from PyTorch's."""
    torch.manual_seed(0)
    stock = without_dropout(workload.model())
    ours = cregkit.torch.convert(copy.deepcopy(stock))
    for model in (stock, ours):
        training_step(model, workload.shape, workload.inner)()
    for (name, expected), found in zip(stock.named_parameters(), ours.parameters(), strict=True):
        if expected.grad is None or found.grad is None:
            raise RuntimeError(f"{workload.name}: {name} has no gradient")
        scale = max(parameter.grad.abs().max() for parameter in stock.parameters() if parameter.grad is not None)
        if not bool((found.grad - expected.grad).abs().max() <= workload.tolerance * scale):
            raise RuntimeError(f"{workload.name}: the gradient of {name} differs from PyTorch's; nothing was timed")


def steps(workload: Workload, budget: float) -> dict[str, Measurement]:
    """Time one model in its states; separate copies would differ by a few per cent because of memory layout."""
    torch.manual_seed(0)
    model = workload.model()
    rates = list(dropout_rates(model))

    def become(state: str) -> None:
        for module, name, rate in rates:
            setattr(module, name, 0.0 if state == WITHOUT else rate)
        (cregkit.torch.convert if state == OURS else cregkit.torch.revert)(model)
        (cregkit.torch.enable if state == ENABLED else cregkit.torch.disable)()

    step = training_step(model, workload.shape, workload.inner)
    states = STOCK, WITHOUT, OURS, ENABLED
    try:
        return measure({state: Contestant(step, setup=lambda state=state: become(state)) for state in states}, budget)
    finally:
        cregkit.torch.disable()


def print_steps(workloads: Sequence[Workload], budget: float) -> list[dict[str, Any]]:
    """Print a row for each workload; return the multiples of the step without dropout, which has its time in ms."""
    multiples = []
    columns = (
        f"{'stock ms':>10}{'without':>9}{'converted':>11}{'enabled':>9}{'stock':>8}{'converted':>11}{'enabled':>9}"
    )
    print(f"{'training step':46}{columns}  limit")
    for workload in workloads:
        check(workload)
        times = {name: measured.median for name, measured in steps(workload, budget).items()}
        widths = {STOCK: 10, WITHOUT: 9, OURS: 11, ENABLED: 9}
        ms = "".join(f"{1e3 * times[name]:{width}.3f}" for name, width in widths.items())
        ratio = min(times[OURS], times[ENABLED]) / times[workload.against]
        verdict = f"{ratio:.3f} of {workload.against}: {'yes' if ratio <= workload.limit else 'NO'} ({workload.limit})"
        stock, converted, enabled = (times[state] / times[WITHOUT] for state in (STOCK, OURS, ENABLED))
        print(f"{workload.name:46}{ms}{stock:8.2f}{converted:11.3f}{enabled:9.3f}  {verdict}", flush=True)
        row = {"stock": stock, "converted": converted, "enabled": enabled, "without_ms": 1e3 * times[WITHOUT]}
        target = {"limit": workload.limit, "against": workload.against}
        multiples.append({"step": workload.name, **{name: round(value, 3) for name, value in row.items()}, **target})
    return multiples


def small_ops(elements: int) -> Iterator[tuple[str, Callable[[Any], Callable[[Tensor], Tensor]]]]:
    """Yield each op with a kernel, as a function of the module that provides it (PyTorch's or cregkit's)."""
    cols = 256
    weight, bias = torch.ones(cols, requires_grad=True), torch.zeros(cols, requires_grad=True)
    mean, var = torch.zeros(cols), torch.ones(cols)
    gain, shift = torch.ones(16, requires_grad=True), torch.zeros(16, requires_grad=True)
    yield "dropout", lambda module: lambda x: module.dropout(x, 0.3)
    yield "batch_norm", lambda module: lambda x: module.batch_norm(x, mean, var, weight, bias, True)
    yield "group_norm", lambda module: lambda x: module.group_norm(x.view(-1, 16, 4, 4), 8, gain, shift)
    yield "layer_norm", lambda module: lambda x: module.layer_norm(x, (cols,), weight, bias)
    yield "rms_norm", lambda module: lambda x: module.rms_norm(x, (cols,), weight)


def print_overhead(budget: float) -> list[dict[str, Any]]:
    """Print a row for each op and size; return the rows."""
    rows = []
    chosen = dict(bridge.SMALLEST)
    print(f"{'forward and backward, us':26}{'elements':>10}{'stock':>9}{'kernel':>9}{'ratio':>8}")
    for elements in (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072):
        for name, op in small_ops(elements):
            bridge.SMALLEST.update(dict.fromkeys(chosen, 0))
            x = torch.randn(elements // 256, 256, requires_grad=True)
            gradient = torch.randn_like(op(F)(x))

            def run(function: Callable[[Tensor], Tensor], x: Tensor = x, gradient: Tensor = gradient) -> None:
                x.grad = None
                function(x).backward(gradient)

            both = {
                "stock": Contestant(lambda op=op: run(op(F))),
                "kernel": Contestant(lambda op=op: run(op(cregkit.torch.functional))),
            }
            us = {who: 1e6 * measured.quartile for who, measured in measure(both, budget).items()}
            ratio = us["kernel"] / us["stock"]
            used = elements >= chosen[name]
            mark = " <- kernel used" if used else ""
            print(f"{name:26}{elements:10}{us['stock']:9.1f}{us['kernel']:9.1f}{ratio:8.2f}{mark}", flush=True)
            rows.append({"op": name, "elements": elements, "us": us, "used": used})
    bridge.SMALLEST.update(chosen)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--only", default="", metavar="TEXT", help="training steps with TEXT in their name")
    parser.add_argument("--overhead", action="store_true", help="time single ops at small sizes instead")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of both (default: PyTorch's choice)")
    add_option(parser)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        if arguments.threads < 1:
            parser.error(f"argument --threads: must be at least 1, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    workloads = [workload for workload in WORKLOADS if arguments.only in workload.name]
    if not workloads:
        parser.error(f"argument --only: must be part of the name of a training step, got {arguments.only!r}")
    if arguments.record and len(workloads) < len(WORKLOADS):
        parser.error("argument --record: keeps a whole run, leave out --only")
    before = {**circumstances(), "threads": torch.get_num_threads()}
    print(machine(before))
    if arguments.overhead:
        kind, figures = "overhead", print_overhead(0.05 if arguments.quick else 0.5)
    else:
        kind, figures = "steps", print_steps(workloads, 5 if arguments.quick else 40)
    if arguments.record:
        store(arguments.record, kind, before, figures)


if __name__ == "__main__":
    main()
