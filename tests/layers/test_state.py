"""State of layers as arrays and files: saved state is restored, state that does not fit changes nothing."""

from __future__ import annotations

import os

import numpy as np
import pytest

from cregkit.layers import BatchNorm, Dropout, LayerNorm, Linear, ReLU, RMSNorm, Sequential

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def _network(seed):
    network = Sequential(
        Linear(3, 4, seed=seed), BatchNorm(4), ReLU(), Dropout(0.5, seed=seed), Sequential(LayerNorm(4), RMSNorm(4))
    )
    y = network(X + np.float32(seed))  # changes the running statistics and the offset
    network.backward(np.ones_like(y))
    return network


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
        assert value.dtype == second[name].dtype


def _state_differs(first, second):
    return any((value != second[name]).any() for name, value in first.items())


def test_state_dict_has_dotted_names_dtypes_and_shapes():
    assert {name: (value.dtype.name, value.shape) for name, value in _network(1).state_dict().items()} == {
        "0.weight": ("float32", (4, 3)),
        "0.bias": ("float32", (4,)),
        "1.gamma": ("float32", (4,)),
        "1.beta": ("float32", (4,)),
        "1.running_mean": ("float32", (4,)),
        "1.running_var": ("float32", (4,)),
        "3.seed": ("uint64", ()),
        "3.offset": ("uint64", ()),
        "4.0.gamma": ("float32", (4,)),
        "4.0.beta": ("float32", (4,)),
        "4.1.gamma": ("float32", (4,)),
    }


def test_state_dict_is_a_copy():
    network = _network(1)
    state = network.state_dict()
    for value in state.values():
        value[...] = 7
    assert _state_differs(network.state_dict(), state)


@pytest.mark.parametrize("through_file", [False, True], ids=["dict", "file"])
def test_a_loaded_network_continues_as_the_saved_one(through_file, tmp_path):
    saved, loaded = _network(1), _network(2)
    arrays = [parameter.value for parameter in loaded.parameters()]
    assert _state_differs(saved.state_dict(), loaded.state_dict())
    if through_file:
        saved.save(tmp_path / "state")
        assert os.listdir(tmp_path) == ["state"]
        loaded.load(tmp_path / "state")
    else:
        loaded.load_state_dict(saved.state_dict())
    assert_same_state(loaded.state_dict(), saved.state_dict())
    for parameter, array in zip(loaded.parameters(), arrays, strict=True):
        assert parameter.value is array
    for _ in range(2):  # the same masks
        np.testing.assert_array_equal(loaded(X), saved(X))
    np.testing.assert_array_equal(loaded.eval()(X), saved.eval()(X))


def test_values_that_are_not_finite_are_loaded():
    layer = LayerNorm(2)
    layer.load_state_dict({"gamma": np.array([np.nan, np.inf], np.float32), "beta": np.zeros(2, np.float32)})
    np.testing.assert_array_equal(layer.gamma, [np.nan, np.inf])


def test_a_layer_may_load_its_own_arrays_swapped():
    layer = LayerNorm(2)
    layer.load_state_dict({"gamma": layer.beta, "beta": layer.gamma})
    np.testing.assert_array_equal([layer.gamma, layer.beta], [[0, 0], [1, 1]])


def test_loading_drops_a_pending_forward():
    network = _network(1)
    y = network(X)
    network.load_state_dict(network.state_dict())
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        network.backward(np.ones_like(y))


def _without(state):
    del state["1.beta"]


def _with_extra(state):
    state["9.gamma"] = np.ones(4, np.float32)


def _misshapen(state):
    state["4.1.gamma"] = np.ones(5, np.float32)


def _double(state):
    state["0.weight"] = state["0.weight"].astype(np.float64)


def _signed_seed(state):
    state["3.seed"] = state["3.seed"].astype(np.int64)


def _list(state):
    state["0.bias"] = [0.0] * 4


MISFITS = [
    (_without, "missing 1.beta"),
    (_with_extra, "unknown 9.gamma"),
    (_misshapen, r"4.1.gamma must be float32 of shape \(4,\), got float32 of shape \(5,\)"),
    (_double, "0.weight must be float32 .* got float64"),
    (_signed_seed, "3.seed must be uint64 .* got int64"),
    (_list, "0.bias must be an array, got list"),
]


@pytest.mark.parametrize(("change", "message"), MISFITS, ids=[change.__name__ for change, _ in MISFITS])
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    network = _network(2)
    before = network.state_dict()
    state = _network(1).state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        network.load_state_dict(state)
    assert_same_state(network.state_dict(), before)


def test_all_misfits_are_named_at_once():
    state = _network(1).state_dict()
    for change in (_without, _with_extra, _misshapen):
        change(state)
    with pytest.raises(ValueError, match=r"missing 1\.beta; unknown 9\.gamma; 4\.1\.gamma must be"):
        _network(2).load_state_dict(state)


def test_a_read_only_parameter_stops_the_load_before_it_begins():
    layer = LayerNorm(2)
    layer.beta.flags.writeable = False
    with pytest.raises(ValueError, match="beta of the layer is read-only"):
        layer.load_state_dict({"gamma": np.zeros(2, np.float32), "beta": np.ones(2, np.float32)})
    np.testing.assert_array_equal(layer.gamma, [1, 1])


def test_state_must_be_a_mapping():
    with pytest.raises(TypeError, match="state must be a mapping"):
        LayerNorm(2).load_state_dict([np.ones(2, np.float32)])


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def _cut_in_the_middle(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _a_byte_changed(path):
    content = bytearray(path.read_bytes())
    content[content.index(_network(1).layers[0].weight.tobytes())] ^= 1
    path.write_bytes(bytes(content))


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("gamma = 1\n")


def _single_array(path):
    with open(path, "wb") as file:
        np.save(file, np.ones(3, np.float32))


class _Trap:
    """An object whose unpickling would raise."""

    def __reduce__(self):
        return pytest.fail, ("the pickle was run",)


def _pickled(path):
    with open(path, "wb") as file:
        np.savez(file, **{"0.weight": np.array([_Trap()])})


def _other_network(path):
    Linear(3, 4, seed=1).save(path)


DAMAGES = [_truncated, _cut_in_the_middle, _a_byte_changed, _empty, _text, _single_array, _pickled, _other_network]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_or_foreign_file_changes_nothing(damage, tmp_path):
    path = tmp_path / "network.npz"
    _network(1).save(path)
    damage(path)
    network = _network(2)
    before = network.state_dict()
    with pytest.raises(ValueError, match=r"network\.npz"):
        network.load(path)
    assert_same_state(network.state_dict(), before)


def test_a_missing_file_changes_nothing(tmp_path):
    network = _network(2)
    before = network.state_dict()
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        network.load(tmp_path / "none.npz")
    assert_same_state(network.state_dict(), before)


def test_a_failed_save_keeps_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "network.npz"
    _network(1).save(path)
    content = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left.*network\.npz"):
        _network(2).save(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["network.npz"]


def test_saving_into_a_missing_folder_names_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.network\.npz'"):
        _network(1).save(tmp_path / "none" / "network.npz")


def test_a_saved_file_is_plain_npz(tmp_path):
    network = _network(1)
    network.save(tmp_path / "network.npz")
    with np.load(tmp_path / "network.npz", allow_pickle=False) as archive:
        assert_same_state(dict(archive), network.state_dict())
