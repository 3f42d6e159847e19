"""What regularises in a step of an optimiser: L1, max-norm, clipped gradients, moving averages."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
from support import ISAS, run_python

from cregkit import oracle
from cregkit.layers import Layer, LayerNorm, Linear, ReLU, Sequential
from cregkit.train import SGD, Adam, AdamW, DivergenceError

OPTIMIZERS = {"sgd": (SGD, {"lr": 0.1, "momentum": 0.9}), "adam": (Adam, {"lr": 0.05}), "adamw": (AdamW, {"lr": 0.05})}
ALL = {"l1": 0.02, "max_norm": 0.9, "clipvalue": 0.5, "global_clipnorm": 1.5, "ema_momentum": 0.8}
each_kind = pytest.mark.parametrize("kind", OPTIMIZERS)


def _network(seed: int = 1) -> Sequential:
    return Sequential(Linear(5, 7, seed=seed), LayerNorm(7), ReLU(), Linear(7, 2, seed=seed + 1))


def _made(kind: str, network: Layer | None = None, **options: Any) -> tuple[Any, Any]:
    make, own = OPTIMIZERS[kind]
    network = network or _network()
    return network, make(network, **{**own, "weight_decay": 0.1, **options})


def _give_gradients(network: Any, step: int, scale: float = 1.0) -> None:
    rng = np.random.default_rng(step)
    for layer in network.layers:
        for name in layer._parameters:
            setattr(layer, "d" + name, (scale * rng.normal(size=getattr(layer, name).shape)).astype(np.float32))


def _run(network: Any, optimizer: Any, steps: range) -> None:
    for step in steps:
        _give_gradients(network, step)
        optimizer.step()


def _bits(network: Any, optimizer: Any) -> dict[str, bytes]:
    return {name: a.tobytes() for name, a in {**network.state_dict(), **optimizer.state_dict()}.items()}


# ---- the order of operations ----


@each_kind
@pytest.mark.parametrize(
    "options",
    [*({name: value} for name, value in ALL.items()), {"clipvalue": 0.5, "global_clipnorm": 1.5}, ALL],
    ids=lambda options: "+".join(options),
)
def test_steps_have_the_results_of_the_oracle_in_the_documented_order(kind: str, options: dict[str, Any]) -> None:
    network, optimizer = _made(kind, **options)
    steps, tolerance = 30, 30 * 2.0**-22
    arrays = {p.name: p.value.astype(np.float64) for p in network.parameters()}
    slots = {name: (np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)) for name, w in arrays.items()}
    for step in range(1, steps + 1):
        _give_gradients(network, step)
        gradients = {p.name: p.grad.astype(np.float64) for p in network.parameters()}
        optimizer.step()
        clip = options.get("clipvalue", math.inf)
        norm = math.sqrt(sum(float(np.square(np.clip(g, -clip, clip)).sum()) for g in gradients.values()))
        scale = min(1.0, options.get("global_clipnorm", math.inf) / norm)
        for name, w in arrays.items():
            average, m, v = slots[name]
            is_weight = name.endswith("weight")
            settings: dict[str, Any] = {
                "weight_decay": 0.1 if is_weight else 0.0,
                "clipvalue": clip,
                "scale": scale,
                "l1": options.get("l1", 0.0) if is_weight else 0.0,
            }
            if kind == "sgd":
                oracle.sgd_step(w, gradients[name], 0.1, momentum=0.9, velocity=m, **settings)
            else:
                oracle.adamw_step(w, gradients[name], m, v, step, 0.05, decoupled=kind == "adamw", **settings)
            if is_weight and "max_norm" in options:
                oracle.max_norm(w, options["max_norm"])
            momentum = options.get("ema_momentum", 0.0) if step > 1 else 0.0
            average[...] = momentum * average + (1 - momentum) * w
    for parameter in network.parameters():
        wanted = arrays[parameter.name]
        assert np.abs(parameter.value - wanted).max() <= tolerance * np.abs(wanted).max(), parameter.name
        if "ema_momentum" in options:
            wanted = slots[parameter.name][0]
            assert np.abs(optimizer.averages[parameter.name] - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("options", [{"global_clipnorm": 0.7}, {"clipvalue": 0.3}], ids=str)
def test_clipping_and_averaging_have_the_results_of_pytorch(options: dict[str, float]) -> None:
    torch = pytest.importorskip("torch")
    network, optimizer = _made("adamw", weight_decay=0.0, ema_momentum=0.9, **options)
    module = torch.nn.ParameterDict(
        {p.name.replace(".", "_"): torch.tensor(p.value.astype(np.float64)) for p in network.parameters()}
    )
    reference = torch.optim.AdamW(module.parameters(), lr=0.05, weight_decay=0.0)
    average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for step in range(50):
        _give_gradients(network, step)
        for p in network.parameters():
            module[p.name.replace(".", "_")].grad = torch.tensor(p.grad.astype(np.float64))
        if "clipvalue" in options:
            torch.nn.utils.clip_grad_value_(module.parameters(), options["clipvalue"])
        else:
            torch.nn.utils.clip_grad_norm_(module.parameters(), options["global_clipnorm"])
        reference.step()
        average.update_parameters(module)
        optimizer.step()
    for p in network.parameters():
        name = p.name.replace(".", "_")
        # clip_grad_norm_ divides by the norm + 1e-6.
        for got, wanted in ((p.value, module[name]), (optimizer.averages[p.name], average.module[name])):
            np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=2e-5, atol=2e-5)


@each_kind
def test_modifiers_out_of_reach_change_no_bit(kind: str) -> None:
    plain, reached = _made(kind), _made(kind, max_norm=1e9, clipvalue=1e9, global_clipnorm=1e9, ema_momentum=0.9)
    for network, optimizer in (plain, reached):
        _run(network, optimizer, range(5))
    assert {k: v for k, v in _bits(*reached).items() if "average" not in k and k != "max_norm"} == {
        k: v for k, v in _bits(*plain).items() if k != "max_norm"
    }


@each_kind
def test_l1_makes_weights_exactly_zero_and_leaves_biases_alone(kind: str) -> None:
    network, optimizer = _made(kind, l1=1.0)
    for step in range(20):
        _give_gradients(network, step, scale=1e-3)
        optimizer.step()
    assert (network.layers[0].weight == 0).mean() > 0.5
    assert (network.layers[0].bias != 0).all()
    assert (network.layers[1].gamma != 0).all()


@each_kind
def test_the_norms_of_all_units_stay_within_max_norm(kind: str) -> None:
    network, optimizer = _made(kind, max_norm=0.25, weight_decay=0.0)
    for step in range(10):
        _give_gradients(network, step)
        optimizer.step()
        for layer in (network.layers[0], network.layers[3]):
            squares = np.square(layer.weight.astype(np.float64)).sum(axis=1)
            assert (squares <= 0.25**2).all()
    assert np.abs(network.layers[1].gamma).max() > 0.25


def test_settings_of_groups_can_be_changed_between_steps() -> None:
    network, optimizer = _made("sgd", l1=0.0)
    _run(network, optimizer, range(2))
    optimizer.groups[0].l1, optimizer.groups[0].max_norm = 1e9, None
    _run(network, optimizer, range(2, 3))
    assert not network.layers[0].weight.any()
    optimizer.groups[1].max_norm = 0.1  # biases, gamma and beta have one axis
    _run(network, optimizer, range(3, 4))
    assert np.abs(network.layers[1].gamma).max() > 0.1


# ---- bits ----

PROGRAM = """
import hashlib, numpy as np
from cregkit import set_num_threads
from cregkit.kernels import _threads
from cregkit.layers import Linear
from cregkit.train import SGD, AdamW
digest = hashlib.sha256()
with _threads.exact_threads({threads}):
    for make in (SGD, AdamW):
        layer = Linear(1009, 257, seed=0)
        optimizer = make(
            layer, 0.01, weight_decay=0.1, l1=0.1, max_norm=0.5, clipvalue=1.0, global_clipnorm=9.0, ema_momentum=0.9
        )
        for step in range(3):
            rng = np.random.default_rng(step)
            layer.dweight = rng.standard_normal((257, 1009), dtype=np.float32)
            layer.dbias = rng.standard_normal(257, dtype=np.float32)
            optimizer.step()
        for name, array in sorted({{**layer.state_dict(), **optimizer.state_dict()}}.items()):
            digest.update(array.tobytes())
print(digest.hexdigest())
"""


def test_every_isa_and_number_of_threads_gives_the_same_bits() -> None:
    found = set()
    for isa in ISAS:
        for threads in (1, 2, 7):
            done = run_python("-c", PROGRAM.format(threads=threads), CREGKIT_ISA=isa)
            assert done.returncode == 0, done.stderr
            found.add(done.stdout)
    assert len(found) == 1
    assert len(found.pop().strip()) == 2 * hashlib.sha256().digest_size


# ---- the state ----


@each_kind
def test_a_loaded_optimizer_continues_with_the_same_bits(kind: str) -> None:
    network, optimizer = _made(kind, **ALL)
    _run(network, optimizer, range(3))
    optimizer.groups[0].l1, optimizer.groups[0].max_norm = 0.5, 0.3
    other, loaded = _made(kind, _network(5), **ALL)
    other.load_state_dict(network.state_dict())
    loaded.load_state_dict(optimizer.state_dict())
    assert loaded.groups == optimizer.groups
    for pair in ((network, optimizer), (other, loaded)):
        _run(*pair, range(3, 6))
    assert _bits(network, optimizer) == _bits(other, loaded)


def test_settings_hold_all_arguments_of_the_first_step() -> None:
    _, optimizer = _made("adamw", **ALL)
    assert {name: optimizer.settings[name] for name in ALL} == ALL
    assert (optimizer.settings["groups[1].l1"], optimizer.settings["groups[1].max_norm"]) == (0.0, None)
    _, plain = _made("adamw")
    assert {name: plain.settings[name] for name in ALL} == {**dict.fromkeys(ALL), "l1": 0.0}


@pytest.mark.parametrize(
    ("name", "value"), [("l1", -1.0), ("l1", np.nan), ("max_norm", -1.0), ("max_norm", np.inf), ("max_norm", 1e-40)]
)
def test_an_invalid_state_changes_nothing(name: str, value: float) -> None:
    network, optimizer = _made("adam", **ALL)
    _run(network, optimizer, range(2))
    before, groups = _bits(network, optimizer), [vars(group).copy() for group in optimizer.groups]
    state = optimizer.state_dict()
    state["average.0.weight"] += 1
    state[name][0] = value
    with pytest.raises(ValueError, match=rf"{name}\[0\] must be"):
        optimizer.load_state_dict(state)
    assert _bits(network, optimizer) == before
    assert [vars(group) for group in optimizer.groups] == groups


def test_a_state_without_averages_does_not_fit() -> None:
    network, optimizer = _made("adam", ema_momentum=0.9)
    with pytest.raises(ValueError, match=r"nothing was loaded: missing average\.0\.bias"):
        optimizer.load_state_dict(Adam(network).state_dict())


# ---- mistakes ----

WRONG = [
    ({"l1": -0.1}, ValueError, "l1 must be finite and at least 0, got -0.1"),
    ({"l1": 1e39}, ValueError, "l1 must be finite in float32"),
    ({"l1": None}, TypeError, "l1 must be a number"),
    ({"max_norm": 0}, ValueError, r"max_norm must be at least 1\.17549e-38, or None for no limit, got 0"),
    ({"max_norm": "1"}, TypeError, "max_norm must be a number"),
    ({"clipvalue": -1}, ValueError, "clipvalue must be finite and at least 0, got -1"),
    ({"clipvalue": float("nan")}, ValueError, "clipvalue must be"),
    ({"global_clipnorm": 0.0}, ValueError, r"global_clipnorm must be at least 1\.17549e-38, or None for no limit"),
    ({"ema_momentum": 1.1}, ValueError, r"ema_momentum must be in \[0, 1\], got 1\.1"),
    ({"ema_momentum": "0.9"}, TypeError, "ema_momentum must be a number"),
]


@each_kind
@pytest.mark.parametrize(("options", "error", "message"), WRONG)
def test_wrong_arguments_are_refused_by_name(
    kind: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _made(kind, **options)


@each_kind
@pytest.mark.parametrize(
    ("name", "value"),
    [("clipvalue", -1.0), ("global_clipnorm", "1"), ("ema_momentum", 2.0), ("ema_momentum", None)],
)
def test_a_setting_made_wrong_later_stops_the_step(kind: str, name: str, value: object) -> None:
    network, optimizer = _made(kind, **ALL)
    _run(network, optimizer, range(2))
    before = _bits(network, optimizer)
    setattr(optimizer, name, value)
    _give_gradients(network, 2)
    with pytest.raises((TypeError, ValueError), match=name):
        optimizer.step()
    assert _bits(network, optimizer) == before


@each_kind
@pytest.mark.parametrize(("name", "value"), [("l1", -1.0), ("max_norm", 0.0), ("max_norm", "1"), ("l1", None)])
def test_a_setting_of_a_group_made_wrong_later_stops_the_step(kind: str, name: str, value: object) -> None:
    network, optimizer = _made(kind, **ALL)
    _run(network, optimizer, range(2))
    before = _bits(network, optimizer)
    was = getattr(optimizer.groups[0], name)
    setattr(optimizer.groups[0], name, value)
    _give_gradients(network, 2)
    with pytest.raises((TypeError, ValueError), match=rf"groups\[0\]\.{name}"):
        optimizer.step()
    setattr(optimizer.groups[0], name, was)
    assert _bits(network, optimizer) == before


def test_an_average_cannot_be_switched_on_later() -> None:
    network, optimizer = _made("sgd")
    _give_gradients(network, 0)
    optimizer.ema_momentum = 0.9
    with pytest.raises(ValueError, match=r"ema_momentum must stay None, .* got 0\.9"):
        optimizer.step()


@each_kind
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"clipvalue": 0.5}, {"global_clipnorm": 1.0}, ALL], ids=lambda o: "+".join(o))
def test_a_gradient_that_is_not_finite_changes_nothing(kind: str, bad: float, options: dict[str, Any]) -> None:
    network, optimizer = _made(kind, **options)
    _run(network, optimizer, range(2))
    before = _bits(network, optimizer)
    _give_gradients(network, 2)
    network.layers[3].dbias[1] = bad
    with pytest.raises(DivergenceError, match=r"the gradient of 3\.bias is not finite"):
        optimizer.step()
    assert _bits(network, optimizer) == before


# ---- averaged() ----


def test_the_network_holds_the_averages_inside_the_block_alone() -> None:
    network, optimizer = _made("adamw", ema_momentum=0.8)
    _run(network, optimizer, range(4))
    before = _bits(network, optimizer)
    with optimizer.averaged():
        for parameter in network.parameters():
            np.testing.assert_array_equal(parameter.value, optimizer.averages[parameter.name])
        assert network.layers[0].weight.tobytes() != before["0.weight"]
    assert _bits(network, optimizer) == before


def test_the_trained_weights_come_back_after_an_exception() -> None:
    network, optimizer = _made("sgd", ema_momentum=0.8)
    _run(network, optimizer, range(4))
    before = _bits(network, optimizer)
    with pytest.raises(ZeroDivisionError), optimizer.averaged():
        1 / 0  # noqa: B018
    assert _bits(network, optimizer) == before
    _run(network, optimizer, range(4, 5))


def test_blocks_may_be_nested() -> None:
    network, optimizer = _made("sgd", ema_momentum=0.8)
    _run(network, optimizer, range(4))
    before = _bits(network, optimizer)
    with optimizer.averaged():
        inside = network.state_dict()
        with optimizer.averaged():
            pass
        assert all((network.state_dict()[name] == value).all() for name, value in inside.items())
        with pytest.raises(RuntimeError, match=r"a step inside averaged\(\) would be lost"):
            optimizer.step()
    assert _bits(network, optimizer) == before


def test_without_an_average_there_is_no_block() -> None:
    _, plain = _made("sgd")
    with pytest.raises(ValueError, match="ema_momentum must be a number for averages"), plain.averaged():
        pass
    _, new = _made("sgd", ema_momentum=0.9)
    with pytest.raises(RuntimeError, match="no average of the parameters yet: take a step first"), new.averaged():
        pass


def test_the_first_average_is_the_parameter() -> None:
    network, optimizer = _made("adam", ema_momentum=0.999, max_norm=0.5)
    _run(network, optimizer, range(1))
    for parameter in network.parameters():
        np.testing.assert_array_equal(optimizer.averages[parameter.name], parameter.value)
