"""Programs for the processes of test_torch_distributed.py: ``python gloo_programs.py RANK RANKS MEETING NAME``.

Each program compares with one process on the whole batch; rank 0 prints one line.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from ranks import parts
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import cregkit.torch
from cregkit.torch import dispatch

RANK, RANKS = int(sys.argv[1]), int(sys.argv[2])
PROGRAMS: dict[str, Callable[[], object]] = {}


def program(function: Callable[[], object]) -> Callable[[], object]:
    PROGRAMS[function.__name__] = function
    return function


def all_of(value: object) -> list[object]:
    found: list[object] = [None] * RANKS
    dist.all_gather_object(found, value)
    return found


def largest_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.numel() else 0.0


@program
def batch_norm() -> dict[str, float]:
    """The largest differences over layouts, offsets, momenta and parts."""
    worst = dict.fromkeys(("y", "dx", "weight", "bias", "running"), 0.0)
    for shape in ((30, 5), (6, 5, 4), (6, 5, 4, 3), (4, 5, 2, 3, 2)):
        for kind in ("even", "uneven", "empty"):
            for offset, momentum, last in ((0.0, 0.1, False), (1e6, None, False), (0.0, 0.3, True)):
                generator = torch.Generator().manual_seed(1)
                x, dy = (torch.randn(shape, generator=generator) for _ in range(2))
                x += offset
                whole = nn.SyncBatchNorm(5, momentum=momentum).double()
                nn.init.uniform_(whole.weight, 0.5, 1.0, generator=generator)
                own = nn.SyncBatchNorm(5, momentum=momentum)
                own.load_state_dict(whole.state_dict())
                assert type(cregkit.torch.convert(own)) is cregkit.torch.SyncBatchNorm
                cut = slice(*parts(shape[0], kind, RANKS)[RANK : RANK + 2])
                mine = x[cut].clone()
                if last and x.dim() == 4:
                    mine = mine.contiguous(memory_format=torch.channels_last)
                mine.requires_grad_()
                everything = x.double().requires_grad_()
                # PyTorch's SyncBatchNorm refuses the CPU for several processes; alone, it is batch norm in float64
                y = nn.functional.batch_norm(
                    everything, whole.running_mean, whole.running_var, whole.weight, whole.bias, True,
                    1.0 if momentum is None else momentum, whole.eps,
                )  # fmt: skip
                y.backward(dy.double())
                found = own(mine)
                found.backward(dy[cut])
                assert everything.grad is not None
                assert mine.grad is not None
                worst["y"] = max(worst["y"], largest_error(found, y[cut]))
                worst["dx"] = max(worst["dx"], largest_error(mine.grad, everything.grad[cut]))
                for name in ("weight", "bias"):
                    total = getattr(own, name).grad.clone()
                    dist.all_reduce(total)
                    worst[name] = max(worst[name], largest_error(total, getattr(whole, name).grad))
                for name in ("running_mean", "running_var"):
                    statistic, scale = getattr(own, name), max(1.0, offset) if name == "running_mean" else 1.0
                    worst["running"] = max(worst["running"], largest_error(statistic, getattr(whole, name)) / scale)
                    assert len({str(s) for s in all_of(statistic.numpy().tobytes())}) == 1, name
                assert own.num_batches_tracked == 1
    return {name: max(float(str(v)) for v in all_of(value)) for name, value in worst.items()}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(216, 20, bias=False), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 4),
    )  # fmt: skip


@program
def training() -> dict[str, object]:
    """The losses of 50 steps: in all processes, and in one with whole batches and the modules of PyTorch."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(240) % 4
    images = torch.randn(240, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1) * 0.3
    alone = network()
    together = DistributedDataParallel(network())  # wrapped first: it refuses a SyncBatchNorm on the CPU
    together = cregkit.torch.convert(nn.SyncBatchNorm.convert_sync_batchnorm(together))  # type: ignore[no-untyped-call]
    assert sum(entry.kind == "SyncBatchNorm" for entry in cregkit.torch.report(together.module).swapped) == 2
    curves: list[list[float]] = [[], []]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9) for net in (alone, together)]
    for step in range(50):
        batch = torch.arange(step * 24, step * 24 + 24) % 240
        for net, rows, optimizer, curve in (
            (alone, batch, optimizers[0], curves[0]),
            (together, batch[RANK * 24 // RANKS : (RANK + 1) * 24 // RANKS], optimizers[1], curves[1]),
        ):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            mean = loss.detach().clone()
            if net is together:
                dist.all_reduce(mean)
                mean /= RANKS
            curve.append(float(mean))
    state = b"".join(t.numpy().tobytes() for t in together.module.state_dict().values())
    return {"alone": curves[0], "together": curves[1], "same": len(set(map(str, all_of(state)))) == 1}


@program
def evaluation() -> dict[str, float]:
    """In evaluation processes exchange nothing: each makes a different number of calls."""
    own = cregkit.torch.convert(nn.SyncBatchNorm(3)).eval()
    x = torch.randn(50_000, 3)
    for _ in range(RANK):
        own(x)
    return {"error": largest_error(own(x), nn.BatchNorm1d(3).eval()(x))}


def encoder() -> nn.Module:
    """Of a size that the kernels compute."""
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(64, 4, 128, 0.0, norm_first=first) for first in (True, False)]
    norms = nn.BatchNorm1d(64), nn.RMSNorm(64)
    return nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), *layers, nn.Flatten(0, 1), *norms)


def sharded(wrap: Callable[[nn.Module], nn.Module]) -> dict[str, object]:
    """The losses of five steps with shards of the parameters: converted, and with the modules of PyTorch."""
    x = torch.randn(40, 64, 64, generator=torch.Generator().manual_seed(1))
    curves = []
    for convert in (cregkit.torch.convert, lambda model: model):
        model = wrap(convert(encoder()))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = (model(x).sin() ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        curves.append(losses)
    return {"converted": curves[0], "stock": curves[1]}


def flat(use_orig_params: bool) -> Callable[[nn.Module], nn.Module]:
    """Wrap a model so that its parameters are views of flat parameters."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    policy = ModuleWrapPolicy({nn.TransformerEncoderLayer, cregkit.torch.TransformerEncoderLayer})
    return lambda model: FullyShardedDataParallel(
        model, auto_wrap_policy=policy, use_orig_params=use_orig_params, device_id=torch.device("cpu")
    )


@program
def fsdp1() -> dict[str, object]:
    return sharded(flat(use_orig_params=False))


def shards(model: nn.Module) -> nn.Module:
    """Parameters whose storage is freed after the forward of a module, and allocated for its backward."""
    from torch.distributed.fsdp import fully_shard

    for part in model:
        if [*part.parameters()]:
            fully_shard(part)
    return fully_shard(model)


@program
def fsdp2() -> dict[str, object]:
    return sharded(shards)


def small() -> nn.Module:
    """A transformer, and the norms of images; without dropout and without batch norm, whose statistics are those of a
    part of the batch."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    images = nn.Unflatten(1, (8, 1)), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.Flatten(1, 2)
    return nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), layer, *images, nn.RMSNorm(16), nn.Dropout(0.0))


def state_of(model: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a model, whole where they are in shards."""
    return [getattr(value, "full_tensor", value.clone)() for value in model.state_dict().values()]


def whole_and_parts(wrap: Callable[[nn.Module], nn.Module]) -> dict[str, object]:
    """The losses of five steps: of processes with parts of the batch, and of one with PyTorch's kernels; and the
    largest difference of the parameters that they end with."""
    x = torch.randn(8, 8, 16, generator=torch.Generator().manual_seed(1))
    losses: list[list[float]] = []
    calls: list[int] = []
    together, alone = wrap(small()), small()
    for model, rows in ((together, x[RANK::RANKS]), (alone, x)):
        if model is alone:
            cregkit.torch.disable()
        before = cregkit.torch.usage()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        curve = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = (model(rows).sin() ** 2).mean()
            loss.backward()
            optimizer.step()
            curve.append(sum(float(str(v)) for v in all_of(float(loss))) / RANKS)
        losses.append(curve)
        calls.append(sum(op["taken"] - before[name]["taken"] for name, op in cregkit.torch.usage().items()))
    error = max(largest_error(a, b) for a, b in zip(state_of(together), state_of(alone), strict=True))
    return {"parts": losses[0], "whole": losses[1], "parameters": error, "calls": calls}


def enabled(wrap: Callable[[nn.Module], nn.Module]) -> dict[str, object]:
    """The same with the kernels on, for tensors of every size."""
    for op in dispatch.SMALLEST:
        dispatch.library.set_smallest(op, 1, 1)
    cregkit.torch.enable()
    return whole_and_parts(wrap)


@program
def ddp_enabled() -> dict[str, object]:
    return enabled(DistributedDataParallel)


@program
def ddp_converted() -> dict[str, object]:
    return whole_and_parts(lambda model: DistributedDataParallel(cregkit.torch.convert(model)))


@program
def fsdp1_flat() -> dict[str, object]:
    return enabled(flat(use_orig_params=False))


@program
def fsdp1_original() -> dict[str, object]:
    return enabled(flat(use_orig_params=True))


@program
def fsdp2_enabled() -> dict[str, object]:
    return enabled(shards)


def message_of(call: Callable[[], object]) -> str:
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@program
def mistakes() -> dict[str, str]:
    layer = cregkit.torch.convert(nn.SyncBatchNorm(3))
    x = torch.randn(4, 3, requires_grad=True)

    def twice() -> None:
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)

    return {
        "one value": message_of(lambda: layer(torch.ones(int(RANK == 0), 3))),
        "float64": message_of(lambda: layer.double()(x.double())),
        "gradient twice": message_of(lambda: (layer.float(), twice())),
        "one axis": message_of(lambda: layer(torch.ones(3))),
    }


@program
def lost() -> str:
    """One process ends; the others notice in the next exchange."""
    layer = cregkit.torch.convert(nn.SyncBatchNorm(3))
    layer(torch.randn(4, 3))
    if RANK == RANKS - 1:
        os.kill(os.getpid(), 9)
    return message_of(lambda: layer(torch.randn(4, 3)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{sys.argv[3]}", rank=RANK, world_size=RANKS,
        timeout=datetime.timedelta(seconds=300),
    )  # fmt: skip
    dist.barrier()  # a process that ends while another still connects makes it fail: 1 of 300 runs without exchange
    result = PROGRAMS[sys.argv[4]]()
    if RANK == 0:
        print(json.dumps(result), flush=True)
    os._exit(0)  # PyTorch aborts now and then at the end of Python, more often where another process was lost
