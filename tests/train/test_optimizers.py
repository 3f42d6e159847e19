"""Optimisers: the steps of PyTorch, what decays, saved state, and steps that cannot be taken."""

from __future__ import annotations

import numpy as np
import pytest

from cregkit import adamw_step, oracle, sgd_step
from cregkit.layers import LayerNorm, Linear, ReLU, Sequential
from cregkit.train import SGD, Adam, AdamW

STEPS = 100
# Relative to the largest magnitude of an array: each step rounds to float32, by up to 2**-24.
TOLERANCE = STEPS * 2.0**-24

OPTIMIZERS = {
    "sgd": (SGD, {"lr": 0.1}),
    "sgd, decay": (SGD, {"lr": 0.1, "weight_decay": 0.05}),
    "sgd, momentum": (SGD, {"lr": 0.03, "momentum": 0.9, "weight_decay": 0.05}),
    "adam": (Adam, {"lr": 0.01}),
    "adam, decay": (Adam, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-6}),
    "adamw": (AdamW, {"lr": 0.01}),
    "adamw, decay": (AdamW, {"lr": 0.01, "weight_decay": 0.3, "betas": (0.8, 0.99), "eps": 1e-6}),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def _network(seed=1):
    return Sequential(Linear(5, 7, seed=seed), LayerNorm(7), ReLU(), Linear(7, 2, seed=seed + 1))


def _made(name, seed=1):
    kind, options = OPTIMIZERS[name]
    network = _network(seed)
    return network, kind(network, **options)


def _give_gradients(network, step):
    """Set gradients of very different sizes that depend on the step alone."""
    rng = np.random.default_rng(step)
    for layer in network.layers:
        for name in layer._parameters:
            shape = getattr(layer, name).shape
            setattr(layer, "d" + name, (rng.normal(size=shape) * 10.0 ** rng.uniform(-4, 1)).astype(np.float32))


@each_optimizer
def test_a_hundred_steps_have_the_results_of_pytorch(name):
    torch = pytest.importorskip("torch")
    network, optimizer = _made(name)
    kind, options = OPTIMIZERS[name]
    theirs = {p.name: torch.tensor(p.value.astype(np.float64)) for p in network.parameters()}
    weight_decay = options.get("weight_decay", 0.01 if kind is AdamW else 0.0)
    reference = getattr(torch.optim, kind.__name__)(
        [
            {"params": [w for key, w in theirs.items() if key.endswith("weight")], "weight_decay": weight_decay},
            {"params": [w for key, w in theirs.items() if not key.endswith("weight")], "weight_decay": 0.0},
        ],
        **{**options, "weight_decay": 0.0},
    )
    for step in range(STEPS):
        _give_gradients(network, step)
        for parameter in network.parameters():
            theirs[parameter.name].grad = torch.tensor(parameter.grad.astype(np.float64))
        optimizer.step()
        reference.step()
    assert optimizer.steps == STEPS
    for parameter in network.parameters():
        expected = theirs[parameter.name].numpy()
        error = np.abs(parameter.value - expected).max()
        assert error <= TOLERANCE * np.abs(expected).max(), parameter.name


@each_optimizer
def test_a_step_has_the_result_of_the_oracle(name):
    network, optimizer = _made(name)
    _give_gradients(network, 0)
    kind, options = OPTIMIZERS[name]
    expected = {}
    for parameter in network.parameters():
        w = parameter.value.astype(np.float64)
        decay = (
            options.get("weight_decay", 0.01 if kind is AdamW else 0.0) if parameter.name.endswith("weight") else 0.0
        )
        if kind is SGD:
            oracle.sgd_step(w, parameter.grad, options["lr"], weight_decay=decay)  # a first step has no momentum
        else:
            others = {key: options[key] for key in ("betas", "eps") if key in options}
            m, v = np.zeros_like(w), np.zeros_like(w)
            oracle.adamw_step(
                w, parameter.grad, m, v, 1, options["lr"], weight_decay=decay, decoupled=kind is AdamW, **others
            )
        expected[parameter.name] = w
    optimizer.step()
    for parameter in network.parameters():
        np.testing.assert_allclose(parameter.value, expected[parameter.name], rtol=5e-7, atol=1e-7)


def test_biases_gamma_and_beta_do_not_decay():
    network = _network()
    decayed, others = AdamW(network, weight_decay=0.5).groups
    assert (decayed.names, decayed.weight_decay) == (("0.weight", "3.weight"), 0.5)
    assert (others.names, others.weight_decay) == (("0.bias", "1.gamma", "1.beta", "3.bias"), 0.0)


def test_lr_can_be_set_between_steps_and_by_group():
    network = _network()
    optimizer = SGD(network, 0.5)
    optimizer.lr = 0.25
    assert [group.lr for group in optimizer.groups] == [0.25, 0.25]
    optimizer.groups[1].lr = 0.0
    _give_gradients(network, 0)
    before = network.state_dict()
    optimizer.step()
    for parameter in network.parameters():
        change = parameter.value - before[parameter.name]
        rate = 0.25 if parameter.decay else 0.0
        np.testing.assert_allclose(change, -rate * parameter.grad, rtol=1e-5, atol=1e-7)


def test_a_negative_lr_is_refused():
    optimizer = SGD(_network(), 0.5)
    with pytest.raises(ValueError, match="lr"):
        optimizer.lr = -1


def test_an_optimizer_of_one_layer_changes_that_layer_alone():
    network = _network()
    optimizer = Adam(network.layers[-1])
    before = network.state_dict()
    _give_gradients(network, 0)
    optimizer.step()
    moved = {key for key, value in network.state_dict().items() if (value != before[key]).any()}
    assert moved == {"3.weight", "3.bias"}


def _run(network, optimizer, steps):
    for step in steps:
        _give_gradients(network, step)
        optimizer.step()


@each_optimizer
def test_a_loaded_optimizer_continues_with_the_same_bits(name):
    network, optimizer = _made(name)
    _run(network, optimizer, range(3))
    optimizer.lr *= 0.5
    other, loaded = _made(name, seed=5)
    other.load_state_dict(network.state_dict())
    loaded.load_state_dict(optimizer.state_dict())
    _run(network, optimizer, range(3, 6))
    _run(other, loaded, range(3, 6))
    for key, value in network.state_dict().items():
        np.testing.assert_array_equal(value, other.state_dict()[key])


def test_state_that_does_not_fit_changes_nothing():
    network, optimizer = _made("adam")
    _run(network, optimizer, range(2))
    before = optimizer.state_dict()
    for wrong in (
        SGD(network).state_dict(),
        {**before, "m.0.weight": np.zeros((1, 1), np.float32)},
        {**before, "steps": np.zeros((), np.int32)},
    ):
        with pytest.raises(ValueError, match="state does not fit, nothing was loaded"):
            optimizer.load_state_dict(wrong)
        for key, value in optimizer.state_dict().items():
            np.testing.assert_array_equal(value, before[key])


def test_a_step_before_backward_changes_nothing():
    network, optimizer = _made("adamw")
    network.layers[0].dweight = np.ones_like(network.layers[0].weight)
    before = network.state_dict()
    with pytest.raises(RuntimeError, match=r"no gradient yet for 0\.bias, 1\.gamma.*backward"):
        optimizer.step()
    assert optimizer.steps == 0
    for key, value in network.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


MISTAKES = [
    (lambda: SGD([]), TypeError, "network must be a Layer, got list"),
    (lambda: SGD(ReLU()), ValueError, "network must have parameters"),
    (lambda: SGD(_network(), lr=-1), ValueError, "lr"),
    (lambda: SGD(_network(), momentum=2), ValueError, "momentum"),
    (lambda: SGD(_network(), weight_decay="x"), TypeError, "weight_decay"),
    (lambda: Adam(_network(), betas=0.9), ValueError, "betas"),
    (lambda: Adam(_network(), betas=(0.9, 1)), ValueError, r"betas\[1\] must be in \[0, 0\.9999999999999999\], got 1"),
    (lambda: AdamW(_network(), eps=-1), ValueError, "eps"),
]


@pytest.mark.parametrize(("mistake", "error", "named"), MISTAKES)
def test_wrong_arguments_are_refused_by_name(mistake, error, named):
    with pytest.raises(error, match=named):
        mistake()


BROKEN = {
    "lr of the second group": lambda network, optimizer: setattr(optimizer.groups[1], "lr", float("nan")),
    "lr beyond float32": lambda network, optimizer: setattr(optimizer.groups[1], "lr", 1e39),
    "lr of another type": lambda network, optimizer: setattr(optimizer.groups[1], "lr", "0.1"),
    "weight decay": lambda network, optimizer: setattr(optimizer.groups[1], "weight_decay", -1.0),
    "groups without a name": lambda network, optimizer: setattr(optimizer, "groups", optimizer.groups[:1]),
    "momentum": lambda network, optimizer: setattr(optimizer, "momentum", 1.5),
    "betas": lambda network, optimizer: setattr(optimizer, "betas", (0.9, 1.0)),
    "eps": lambda network, optimizer: setattr(optimizer, "eps", float("inf")),
    "gradient of NaN": lambda network, optimizer: network.layers[3].dbias.fill(np.nan),
    "gradient of inf": lambda network, optimizer: network.layers[3].dbias.fill(np.inf),
    "gradient of another shape": lambda network, optimizer: setattr(network.layers[3], "dbias", np.ones(3, np.float32)),
    "gradient of another dtype": lambda network, optimizer: setattr(network.layers[3], "dbias", np.ones(2)),
    "gradient with gaps": lambda network, optimizer: setattr(network.layers[3], "dbias", np.ones(4, np.float32)[::2]),
    "gradient that is the weight": lambda network, optimizer: setattr(
        network.layers[3], "dbias", network.layers[3].bias
    ),
    "gradient that is a view of the weight": lambda network, optimizer: setattr(
        network.layers[3], "dbias", network.layers[3].bias[:]
    ),
    "weight that is a view of its gradient": lambda network, optimizer: setattr(
        network.layers[3], "bias", network.layers[3].dbias[:]
    ),
    "no gradient": lambda network, optimizer: setattr(network.layers[3], "dbias", None),
    "gradient that is a list": lambda network, optimizer: setattr(network.layers[3], "dbias", [1.0, 1.0]),
    "read-only bias": lambda network, optimizer: network.layers[3].bias.setflags(write=False),
    "bias of another dtype": lambda network, optimizer: setattr(network.layers[3], "bias", np.ones(2)),
    "bias of another shape": lambda network, optimizer: (
        setattr(network.layers[3], "bias", np.ones(3, np.float32)),
        setattr(network.layers[3], "dbias", np.ones(3, np.float32)),
    ),
    "bias taken away": lambda network, optimizer: setattr(network.layers[3], "bias", None),
    "layer put in": lambda network, optimizer: setattr(
        network, "layers", (*network.layers, _with_gradient(Linear(2, 2, seed=0)))
    ),
}
OF_SOME = {"momentum": "sgd", "betas": "adam", "eps": "adam"}


def _with_gradient(layer):
    layer.dweight, layer.dbias = np.ones_like(layer.weight), np.ones_like(layer.bias)
    return layer


def _everything(network, optimizer):
    values = [parameter.value for parameter in network.parameters()]
    slots = [array.tobytes() for array in optimizer._slot_arrays.values()]
    return [np.asarray(value).tobytes() for value in values], slots, optimizer.steps


@pytest.mark.parametrize(
    ("what", "name"),
    [(what, name) for what in BROKEN for name in OPTIMIZERS if name.startswith(OF_SOME.get(what, ""))],
)
def test_a_step_that_cannot_be_taken_whole_changes_nothing(what, name):
    network, optimizer = _made(name)
    _run(network, optimizer, range(2))
    BROKEN[what](network, optimizer)
    before = _everything(network, optimizer)
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        optimizer.step()
    assert _everything(network, optimizer) == before
    assert optimizer.steps == 2


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("lr of the second group", r"groups\[1\]\.lr must be finite and at least 0, got nan"),
        ("lr beyond float32", r"groups\[1\]\.lr must be finite in float32, got 1e\+39"),
        ("gradient of NaN", r"the gradient of 3\.bias is not finite"),
        ("gradient of another shape", r"the gradient of 3\.bias must .* shape \(2,\) .* got shape \(3,\)"),
        ("read-only bias", r"3\.bias must be writeable, got a read-only array"),
        ("layer put in", r"network must have the parameters .* got .* 4\.weight, 4\.bias"),
        ("groups without a name", r"groups must hold .* 0\.bias"),
    ],
)
def test_an_error_of_a_step_names_what_is_wrong(what, message):
    network, optimizer = _made("adamw")
    _give_gradients(network, 0)
    BROKEN[what](network, optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.step()


def test_momentum_cannot_be_switched_on_without_its_velocity():
    network, optimizer = _made("sgd")
    _give_gradients(network, 0)
    optimizer.momentum = 0.9
    before = _everything(network, optimizer)
    with pytest.raises(ValueError, match=r"momentum must stay 0, .* got 0\.9"):
        optimizer.step()
    assert _everything(network, optimizer) == before


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf])
def test_invalid_rates_and_steps_are_not_loaded(name, value):
    network, optimizer = _made("adam")
    _run(network, optimizer, range(2))
    before = optimizer.state_dict()
    for wrong in ({**before, name: np.array([0.1, value])}, {**before, "steps": np.array(-1)}):
        with pytest.raises(ValueError, match=f"{name}|steps"):
            optimizer.load_state_dict({**wrong, "m.0.weight": before["m.0.weight"] + 1})
        for key, array in optimizer.state_dict().items():
            np.testing.assert_array_equal(array, before[key])


FUNCTIONAL = [
    (sgd_step, {"lr": -1.0}), (sgd_step, {"lr": 1e39}), (sgd_step, {"weight_decay": np.nan}),
    (sgd_step, {"momentum": 2}), (sgd_step, {"velocity": None, "momentum": 0.5}),
    (sgd_step, {"dw": np.ones(3, np.float32)}),
    (adamw_step, {"lr": "x"}), (adamw_step, {"step": 0}), (adamw_step, {"step": 1.0}),
    (adamw_step, {"betas": (0.9, 1.0)}), (adamw_step, {"betas": 0.9}), (adamw_step, {"eps": -1}),
    (adamw_step, {"v": np.ones(3, np.float32)}), (adamw_step, {"decoupled": np.ones(2)}),
]  # fmt: skip


@pytest.mark.parametrize(("step", "wrong"), FUNCTIONAL)
def test_a_functional_step_with_a_wrong_argument_changes_nothing(step, wrong):
    arrays = {name: np.full(4, 0.5, np.float32) for name in ("w", "dw", "velocity", "m", "v")}
    names = ("w", "dw", "velocity") if step is sgd_step else ("w", "dw", "m", "v")
    arguments = {**{name: arrays[name] for name in names}, "lr": 0.1}
    arguments |= {"momentum": 0.9} if step is sgd_step else {"step": 1}
    with pytest.raises((TypeError, ValueError)):
        step(**{**arguments, **wrong})
    for array in arrays.values():
        np.testing.assert_array_equal(array, 0.5)


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
def test_a_parameter_in_two_groups_is_refused(make: type[SGD | Adam | AdamW]) -> None:
    network = Linear(3, 2, seed=0)
    optimizer = make(network)
    network.backward(np.ones_like(network(np.ones((4, 3), np.float32))))
    optimizer.groups[1].names = ("weight", "bias")
    before = network.state_dict()
    with pytest.raises(ValueError, match=r"got weight more than once"):
        optimizer.step()
    assert optimizer.steps == 0
    assert all(np.array_equal(before[name], value) for name, value in network.state_dict().items())
