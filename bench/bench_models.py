"""What cregkit does to the training step and the inference of models of other libraries.

    python bench/bench_models.py                # twenty minutes on two threads
    python bench/bench_models.py --quick        # under four minutes: fewer rounds, float32 alone
    python bench/bench_models.py --only BERT    # rows whose name contains BERT
    python bench/bench_models.py --record       # store the figures, for bench/render.py

One model is timed in its states in turn (A, B, C, A, B ...), because copies differ by a few per cent: their memory
lies elsewhere. The states are stock PyTorch, ``cregkit.torch.convert``, ``cregkit.torch.enable``, stock with every
dropout rate 0, and stock without dropout and norms, which shows their share. A training step is forward, backward and
AdamW, with a learning rate of 0, so that all states take the same step.

Before it is timed, a model passes ``checks``. If one fails, the row says so and the exit code is 1.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import models_report
import numpy as np
import record
import torch
from model_zoo import FURTHER, WORKLOADS, Inputs, Workload
from torch import Tensor, nn

import cregkit.torch
from cregkit.benchmark.timing import Contestant, Measurement, take_samples
from cregkit.torch import dispatch

Tensors: TypeAlias = dict[str, Tensor]

STOCK, CONVERTED, ENABLED, WITHOUT_DROPOUT, WITHOUT_BOTH = models_report.STATES
ROUNDS = 9
TOLERANCE = 1e-5
"""Of outputs and gradients beside stock's, relative to the largest; others are compared with float64."""
ROUNDING, NUDGES = 1e-7, 3
"""Relative changes of the parameters that show how much rounding changes the results, and how many are tried: the
gradient of a ReLU near 0 is either 0 or 1."""
RESAMPLES = 2000


class Task(nn.Module):
    """A model that takes its inputs as one argument and returns its first output, perhaps in bfloat16 autocast."""

    def __init__(self, model: nn.Module, autocast: bool) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast

    def forward(self, inputs: Inputs) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            output = self.model(**inputs) if isinstance(inputs, dict) else self.model(*inputs)
        first: Tensor = output if isinstance(output, Tensor) else output[0]
        return first


def rates(model: nn.Module) -> Iterator[tuple[Any, str, float]]:
    """Yield every dropout rate above 0: its module or configuration, the attribute's name and the rate.

    A rate is a number named ``p`` or with "drop" in its name.
    """
    seen = set()
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            if holder is None or id(holder) in seen:
                continue
            seen.add(id(holder))
            for name, value in list(vars(holder).items()):
                if isinstance(value, float) and 0 < value < 1 and (name == "p" or "drop" in name):
                    yield holder, name, value


def norms(model: nn.Module) -> list[nn.Module]:
    """The outermost modules whose class has "Norm" in its name, but for those with a weight matrix or convolution."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        vectors = all(parameter.dim() < 2 for parameter in module.parameters())
        if "Norm" in type(module).__name__ and vectors and module not in inside:
            found.append(module)
            inside.update(module.modules())
    return found


def identity(x: Any, *_: Any, **__: Any) -> Any:
    return x


class Subject:
    """A model with its batch, in any of its states."""

    def __init__(self, workload: Workload, mode: str) -> None:
        torch.manual_seed(0)
        model, self.inputs = workload.build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)  # a gain of 0 would hide its branch from the checks
        self.task = Task(model, mode == "bfloat16").train()
        torch.optim.swa_utils.update_bn([(self.inputs,)], self.task)
        self.call: Callable[[Inputs], Tensor] = torch.compile(self.task) if mode == "compiled" else self.task
        self.rates = list(rates(self.task))
        self.norms = norms(self.task)
        with torch.no_grad():
            self.target = torch.randn_like(self.task(self.inputs), dtype=torch.float32)
        self.loss = workload.loss
        self.optimizer = torch.optim.AdamW(self.task.parameters(), lr=0.0, fused=True)

    def become(self, state: str, training: bool = True, dropout: bool = True) -> None:
        """Switch to a state, without its dropout if ``dropout`` is false."""
        for module in self.norms:
            vars(module).pop("forward", None)
        drops = dropout and state not in (WITHOUT_DROPOUT, WITHOUT_BOTH)
        for holder, name, rate in self.rates:
            setattr(holder, name, rate if drops else 0.0)
        (cregkit.torch.convert if state == CONVERTED else cregkit.torch.revert)(self.task)
        (cregkit.torch.enable if state == ENABLED else cregkit.torch.disable)()
        if state == WITHOUT_BOTH:
            for module in self.norms:
                module.forward = identity
        self.task.train(training)

    def forward(self) -> Tensor:
        """The loss."""
        output = self.call(self.inputs)
        return self.loss(output.float() if self.task.autocast else output, self.target)

    def train(self) -> None:
        self.optimizer.zero_grad()
        self.forward().backward()
        self.optimizer.step()

    def infer(self) -> None:
        with torch.no_grad():
            self.call(self.inputs)

    def output(self) -> Tensors:
        with torch.no_grad():
            return {"output": self.call(self.inputs)}

    def gradients(self) -> Tensors:
        self.optimizer.zero_grad()
        self.forward().backward()
        named = {name: p.grad for name, p in self.task.named_parameters() if p.grad is not None}
        self.optimizer.zero_grad()
        return named

    def exact(self) -> Subject:
        """Return an uncompiled copy in float64, without autocast."""
        twin = self._twin()
        twin.task.double().autocast = False
        twin.inputs = doubled(self.inputs)
        twin.target = self.target.double()
        return twin

    def nudged(self) -> Subject:
        """Return an uncompiled copy whose parameters differ by about a rounding."""
        twin = self._twin()
        with torch.no_grad():
            for parameter in twin.task.parameters():
                parameter *= 1 + ROUNDING * torch.randn_like(parameter)
        return twin

    def _twin(self) -> Subject:
        twin = copy.copy(self)
        twin.task = twin.call = copy.deepcopy(self.task)
        twin.optimizer = torch.optim.AdamW(twin.task.parameters())
        return twin


def doubled(inputs: Any) -> Any:
    """Inputs with their float32 tensors in float64."""
    if isinstance(inputs, dict):
        return {name: doubled(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(map(doubled, inputs))
    return inputs.double() if isinstance(inputs, Tensor) and inputs.is_floating_point() else inputs


def distance(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.vector_norm(found.double() - expected.double()))


def differing(found: Tensors, stock: Tensors) -> list[str]:
    """The names of the tensors that are not within ``TOLERANCE`` of stock's."""
    return [name for name, y in stock.items() if not bool((found[name] - y).abs().max() <= TOLERANCE * y.abs().max())]


def inaccurate(found: Tensors, exact: Tensors, noisy: Sequence[Tensors]) -> list[str]:
    """The names of the tensors that are farther from the exact ones than rounding explains.

    ``noisy`` are results of stock with errors of rounding. The limit is three times the distance of the worst of them,
    plus 1e-6 of the largest tensor's norm: that is the noise of gradients that are 0 in exact arithmetic.
    """
    scale = max(distance(y, torch.zeros_like(y)) for y in exact.values())
    return [
        name
        for name in found
        if not distance(found[name], exact[name])
        <= 3 * max(distance(result[name], exact[name]) for result in noisy) + 1e-6 * scale
    ]


def accuracy(subject: Subject, what: str) -> Iterator[str]:
    """Yield what of a converted or enabled model's "output" in evaluation or "gradients" is wrong, without dropout."""
    training = what == "gradients"

    def compute(state: str) -> Tensors:
        subject.become(state, training, dropout=False)
        results: Tensors = getattr(subject, what)()
        return results

    stock = compute(STOCK)
    for state in (CONVERTED, ENABLED):
        found = compute(state)
        if found.keys() != stock.keys():
            yield f"{what}, {state}: only one has {', '.join(found.keys() ^ stock.keys())}"
        elif names := differing(found, stock):
            subject.become(STOCK, training, dropout=False)
            exact = getattr(subject.exact(), what)()
            noisy = [stock, *(getattr(subject.nudged(), what)() for _ in range(NUDGES))]
            for name in inaccurate({name: found[name] for name in names}, exact, noisy)[:1]:
                yield f"{what}, {state}: {name} is less accurate than stock's"


def checks(subject: Subject) -> Iterator[str]:
    """Yield what is wrong with a converted or enabled model, in words."""
    before = {name: value.clone() for name, value in subject.task.state_dict().items()}
    subject.become(CONVERTED)
    after = subject.task.state_dict()
    if list(before) != list(after) or not all(torch.equal(before[name], after[name]) for name in before):
        yield "convert changes the state_dict"

    yield from accuracy(subject, "output")
    yield from accuracy(subject, "gradients")

    def losses(state: str, seeds: Sequence[int]) -> list[float]:
        subject.become(state)
        values = []
        for seed in seeds:
            torch.manual_seed(seed)
            values.append(float(subject.forward().detach()))
        return values

    for state in (CONVERTED, ENABLED):
        one, same, other = losses(state, (1, 1, 2))
        if one != same:
            yield f"{state}: a seed gives two losses, {one} and {same}"
        if subject.rates and one == other:
            yield f"{state}: two seeds give the same loss, {one}, in spite of dropout"
    one, other = losses(WITHOUT_DROPOUT, (1, 2))
    if one != other:
        yield f"a dropout rate was not found: without dropout, two seeds give the losses {one} and {other}"


def interval(samples: Sequence[float], stock: Sequence[float]) -> list[float]:
    """The 95 % interval of the time relative to stock's, from resampled rounds (Efron 1979, "Bootstrap methods")."""
    n = len(stock)
    rounds = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    quartiles = np.sort(np.array([samples, stock])[:, rounds])[..., (n - 1) // 4]
    low, high = np.quantile(quartiles[0] / quartiles[1], [0.025, 0.975])
    return [round(float(low), 3), round(float(high), 3)]


def timed(subject: Subject, mode: str, phase: str, budget: float) -> dict[str, Any]:
    """Time a phase in its states; return milliseconds, and times relative to stock's."""
    training = phase == "training"
    states = [STOCK, CONVERTED, ENABLED]
    if training and subject.rates:
        states.append(WITHOUT_DROPOUT)
    if training and mode != "compiled":
        states.append(WITHOUT_BOTH)

    def prepare(state: str) -> None:
        subject.become(state, training)
        if not training:  # a short call would pay for what the change of state put into the caches
            subject.infer()

    def contestant(state: str) -> Contestant:
        return Contestant(subject.train if training else subject.infer, setup=lambda: prepare(state))

    samples = take_samples({state: contestant(state) for state in states}, budget, ROUNDS)
    times = {state: Measurement.of(of_one) for state, of_one in samples.items()}
    stock = times[STOCK].quartile
    return {
        **{f"{state}_ms": round(1e3 * times[state].quartile, 3) for state in states},
        **{state: round(times[state].quartile / stock, 3) for state in states if state != STOCK},
        **{f"{state}_interval": interval(samples[state], samples[STOCK]) for state in (CONVERTED, ENABLED)},
        "spread": round(max(times[state].noise for state in (STOCK, CONVERTED, ENABLED)), 3),
        "rounds": min(measured.n for measured in times.values()),
    }


def rows_of(workload: Workload, mode: str, budget: float) -> Iterator[dict[str, Any]]:
    """Check a model and time it; yield a row for each phase, or one that says what failed."""
    about = {"model": workload.name, "library": workload.library, "batch": workload.batch, "mode": mode}
    try:
        subject = Subject(workload, mode)
        if wrong := list(checks(subject)):
            yield {**about, "phase": "training", "failed": "; ".join(wrong)}
            return
        yield {**about, "phase": "training", **timed(subject, mode, "training", budget)}
        if mode != "compiled":  # in evaluation, nothing of a graph is cregkit's
            yield {**about, "phase": "inference", **timed(subject, mode, "inference", budget / 3)}
    except Exception as error:  # of whatever library: the rows of the others still count
        yield {**about, "phase": "training", "failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    finally:
        cregkit.torch.disable()
        if mode == "compiled":
            torch.compiler.reset()


def plan(only: str, quick: bool) -> list[tuple[Workload, str]]:
    """The models and modes of a run."""
    chosen = [workload for workload in WORKLOADS if only in workload.name]
    further = [workload for workload in chosen if workload.name in FURTHER]
    modes = [] if quick else ["bfloat16", "compiled"]
    return [(workload, "float32") for workload in chosen] + [(w, mode) for mode in modes for w in further]


def missing(workloads: Sequence[Workload]) -> list[str]:
    """The libraries of some models that are not installed."""
    return [name for name in sorted({w.library for w in workloads}) if importlib.util.find_spec(name) is None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and float32 alone")
    parser.add_argument("--only", default="", metavar="TEXT", help="models with TEXT in their name")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of both (default: PyTorch's choice)")
    record.add_option(parser)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        if arguments.threads < 1:
            parser.error(f"argument --threads: must be at least 1, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    if dispatch.library is None:
        cregkit.torch.enable()  # says what is missing
    tasks = plan(arguments.only, arguments.quick)
    if not tasks:
        parser.error(f"argument --only: must be part of the name of a model, got {arguments.only!r}")
    before = {**record.circumstances(), "threads": torch.get_num_threads()}
    print(record.machine(before), flush=True)
    if absent := missing([workload for workload, _ in tasks]):
        print(f"left out, not installed: pip install {' '.join(absent)}", flush=True)
    print(models_report.HEADER)
    figures = []
    for workload, mode in tasks:
        if workload.library not in absent:
            for row in rows_of(workload, mode, 1.0 if arguments.quick else 8.0):
                figures.append(row)
                print(models_report.line(row), flush=True)
    if arguments.record:
        record.store(arguments.record, "models", before, figures)
    return int(any("failed" in row for row in figures))


if __name__ == "__main__":
    sys.exit(main())
