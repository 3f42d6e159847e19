"""The names of PyTorch that begin with an underscore: where they stand, and what works without each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import run_python

torch = pytest.importorskip("torch")

from cregkit.torch import dispatch, private  # noqa: E402

FOLDER = Path(private.__file__).parent

LIBRARY = "cregkit.torch._dispatcher_" + "_".join(torch.__version__.split(".")[:2])

WITHOUT = """
import os
import sys
import traceback
import torch
import torch._dynamo
import torch.fx.experimental.symbolic_shapes
from torch import nn
import cregkit.batch_sums, cregkit.functional

library, *names = sys.argv[1:]
if library:
    sys.modules[library] = None


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((8,), 0.5))

    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight


def import_without(name):
    owner, _, last = name.rpartition(".")
    owners, replaced = [], None
    if owner == "torch.nn.Module()":  # what __init__ sets
        attribute, stock = last, nn.Module.__init__
        def init(self, *arguments, **named):
            stock(self, *arguments, **named)
            del vars(self)[attribute]
        owners, last, replaced = [(nn.Module, stock)], "__init__", init
    elif owner == "torch.Tensor":  # the attribute belongs to a class that is written in C: one that is None hides it
        setattr(torch.Tensor, last, None)
    else:
        owner = eval(owner)
        bases = owner.__mro__ if isinstance(owner, type) else [owner]
        owners = [(base, vars(base)[last]) for base in bases if last in vars(base)]
    for owner, _ in owners:
        setattr(owner, last, replaced) if replaced else delattr(owner, last)
    import cregkit.torch
    for owner, stock in owners:
        setattr(owner, last, stock)  # this PyTorch calls it itself
    if not owners:
        delattr(torch.Tensor, last)


def models():
    yield nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.InstanceNorm2d(8), nn.GroupNorm(2, 8)), (2, 3, 5, 5)
    yield nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.0), nn.RMSNorm(8), Scale()), (6, 8)
    yield nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True), (2, 3, 8)


def results(model, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


def check(name):
    import_without(name)
    import cregkit.torch as ct
    from cregkit.torch import bridge, dispatch

    for op in bridge.SMALLEST:
        bridge.SMALLEST[op] = 1
    assert bool(dispatch.library) != bool(library)
    torch.manual_seed(0)
    for model, shape in models():
        expected = results(model, shape)
        found = [results(ct.convert(model), shape)]
        report = ct.report(model)
        assert report.swapped
        if dispatch.library:
            ct.revert(model)
            with ct.enable():
                found.append(results(model, shape))
        for tensors in found:
            for got, right in zip(tensors, expected, strict=True):
                torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-4)
    layer = ct.convert(nn.TransformerEncoderLayer(8, 2, 8, dropout=0.5, batch_first=True))
    assert all(gradient.isfinite().all() for gradient in results(layer, (2, 3, 8)))
    x = torch.ones(100, 100, requires_grad=True)
    ct.functional.dropout(x * 1, inplace=True).sum().backward()
    assert set(x.grad.unique().tolist()) == {0.0, 2.0}
    for norm, dims in (ct.BatchNorm2d, 4), (ct.SyncBatchNorm, 3):
        assert norm(8)(torch.ones(2, 8, 3, 3)[(..., 0)[: 5 - dims]]).dim() == dims
    for norm, wrong in (ct.BatchNorm1d, (2, 8, 3, 3)), (ct.BatchNorm2d, (2, 8, 3)), (ct.SyncBatchNorm, (8,)):
        try:
            norm(8)(torch.ones(wrong))
        except ValueError as error:
            assert f"{len(wrong)}D input" in str(error)
        else:
            raise AssertionError(f"{norm.__name__} takes {wrong}")
    print(*report.lacks, sep="\\n", flush=True)


for name in names:  # all that cregkit.torch imports is imported once
    child = os.fork()
    if not child:
        try:
            check(name)
        except BaseException:
            print(name, traceback.format_exc(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


PRESENT = [name for name in private.NAMES if name not in private.MISSING]


@pytest.mark.parametrize("names", [PRESENT[i::3] for i in range(3)], ids=lambda names: names[0])
@pytest.mark.parametrize("hidden", ["", LIBRARY], ids=["library as built", "without the library"])
def test_without_a_name_the_results_are_right_and_the_report_says_what_is_lost(hidden, names):
    if not hidden and dispatch.library is None:
        pytest.skip("the native library is not built for this PyTorch")
    done = run_python("-W", "error", "-c", WITHOUT, hidden, *names, OMP_NUM_THREADS="1")
    lacks = [[lack for lack in private.NAMES if lack == name or lack in private.MISSING] for name in names]
    assert done.stdout.splitlines() == [f"without {lack}: {private.NAMES[lack]}" for each in lacks for lack in each]
    assert (done.returncode, done.stderr) == (0, "")


def names_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each attribute, string, import and method of a module that begins with one _."""
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Attribute):
            found = [node.attr]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found = [node.value]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found = [part for alias in node.names for part in alias.name.split(".")]
            found += (getattr(node, "module", None) or "").split(".")
        elif isinstance(node, ast.ClassDef):
            found = [method.name for method in node.body if isinstance(method, ast.FunctionDef)]
        yield from ((node.lineno, name) for name in found if name.startswith("_") and not name.startswith("__"))


def own_names() -> set[str]:
    """Return the names with one _ that modules, functions, classes and instances of this package define."""
    names: set[str] = {path.stem for path in FOLDER.parent.rglob("*.py*")}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module):
                names |= {part.name for part in node.body if isinstance(part, (ast.FunctionDef, ast.ClassDef))}
            elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_only_one_module_uses_private_names_of_pytorch(path):
    """A name that another module needs belongs into ``private.NAMES``, with what happens without it."""
    if path.name != "private.py":
        own = own_names()
        names = names_of(ast.parse(path.read_text(encoding="utf-8")))
        assert [f"{path.name}:{line}: {name}" for line, name in names if name not in own] == []
