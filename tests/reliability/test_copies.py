"""Objects of every public class survive pickle, copy and deepcopy; deep copies are independent."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cregkit as ck
from cregkit import advice, train
from cregkit import augment as aug
from cregkit.benchmark import report as speed_report
from cregkit.commands.arguments import CommandError
from cregkit.lab import sheet

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((6, 8)).astype(np.float32)
SEQUENCES = RNG.standard_normal((2, 5, 8)).astype(np.float32)
IMAGES = RNG.random((6, 3, 9, 8), dtype=np.float32)
CLIPS = RNG.standard_normal((6, 4000)).astype(np.float32)
IDS = RNG.integers(0, 11, (2, 5))
SENTENCES = ["A big house stands there.", "We met the big dog."] * 3
LABELS = np.arange(6) % 3


def plain(value: Any) -> Any:
    """The value with arrays as bytes, so that == compares everything."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return plain(value.detach().numpy()) if hasattr(value, "detach") else value


def layer_run(x: Any) -> Callable[[Any], Any]:
    def run(layer: Any) -> Any:
        found = []
        for _ in range(2):
            y = layer(x)
            found += [y, layer.backward(np.ones_like(y)), *(p.grad for p in layer.parameters())]
        return [found, layer.state_dict(), layer.eval()(x), layer.train() is layer]

    return run


def residual_run(layer: Any) -> Any:
    return [(*layer.add(ROWS, ROWS), *layer.split(ROWS, ROWS)) for _ in range(2)]


def transform_run(x: Any) -> Callable[[Any], Any]:
    return lambda transform: [transform(x, index=range(6), seed=3, epoch=epoch) for epoch in range(2)]


def mix_run(mix: Any) -> Any:
    soft = np.eye(6, dtype=np.float32)
    return mix(IMAGES, soft, IMAGES[::-1].copy(), soft[::-1].copy(), index=np.arange(6), seed=3)


def optimizer_run(optimizer: Any) -> Any:
    found = []
    for _ in range(3):
        train.train_step(optimizer.network, train.softmax_cross_entropy, optimizer, ROWS, LABELS)
        found += [p.value.copy() for p in optimizer.network.parameters()]
    return [found, optimizer.state_dict(), optimizer.settings]


def fitted(**options: Any) -> Any:
    network = ck.Sequential(ck.Linear(8, 3, seed=1))
    data = ROWS, LABELS
    train.fit(network, train.softmax_cross_entropy, train.SGD(network), data, data, 3, seed=1, **options)
    return network


def stopping() -> train.EarlyStopping:
    hook = train.EarlyStopping(2)
    fitted(callbacks=[hook])
    return hook


def hook_run(hook: Any) -> Any:
    network = fitted(callbacks=[hook])
    return [network.state_dict(), hook.state_dict(), hook.settings]


def fit_state() -> train.FitState:
    states: list[train.FitState] = []
    fitted(callbacks=[states.append])
    state = states[-1]
    state.history.seconds[:] = [1.0] * len(state.history)
    return state


def state_run(state: Any) -> Any:
    return [state.epoch, state.history, state.batch_loss, state.network(ROWS), optimizer_run(state.optimizer)]


def batches_run(hook: Any) -> Any:
    return hook.on_batch_begin(fit_state(), np.arange(6), ROWS, LABELS)


def dataset() -> aug.AugmentedDataset:
    data = aug.AugmentedDataset((IMAGES, LABELS), aug.Augmentation(aug.RandomCrop(7), seed=1))
    data.set_epoch(7)
    return data


def twice(text: list[str]) -> list[str]:
    return [sentence + " " + sentence for sentence in text]


def network_run(network: Any) -> Any:
    points = ROWS[:, :2].copy(), (ROWS[:, 2] > 0).astype(np.float32)
    history = network.fit(points, points, 3)
    return [history.train_loss, network.state_dict()]


def classifier_run(classifier: Any) -> Any:
    return [classifier.predict_proba(ROWS), classifier.fit(ROWS, LABELS).predict_proba(ROWS)]


def regressor_run(regressor: Any) -> Any:
    return [regressor.predict(ROWS), regressor.partial_fit(ROWS, LABELS).predict(ROWS)]


def threads_run(block: Any) -> Any:
    with block:
        return ck.get_num_threads()


def attention_run(module: Any) -> Any:
    import torch

    x = torch.from_numpy(SEQUENCES)
    torch.manual_seed(1)
    return module(x, x, x)[0]


def module_run(x: Any) -> Callable[[Any], Any]:
    def run(module: Any) -> Any:
        import torch

        torch.manual_seed(1)
        return [module(torch.from_numpy(x)), {name: value.clone() for name, value in module.state_dict().items()}]

    return run


def module(name: str, *arguments: Any, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        torch.manual_seed(0)
        return getattr(importlib.import_module("cregkit.torch"), name)(*arguments, **options)

    return make


def torch_room() -> Any:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    return importlib.import_module("cregkit.torch")


def op_entry() -> Any:
    return torch_room().OpEntry("dropout", True, 1, {"taken": 2, "small": 1})


def enabled_within(block: Any) -> Any:
    with block:
        return sorted(torch_room().enabled())


def enable() -> Any:
    room = torch_room()
    if importlib.import_module("cregkit.torch.dispatch").library is None:
        pytest.skip("cregkit was built without PyTorch")
    with room.enable(only=()):
        return room.enable(only=())


def report() -> Any:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    return importlib.import_module("cregkit.torch").report(torch.nn.Sequential(torch.nn.Dropout()))


def classifier() -> Any:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    return train.RegularizedMLPClassifier(random_state=1, epochs=3).fit(ROWS, LABELS)


def regressor() -> Any:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    return train.RegularizedMLPRegressor(random_state=1, epochs=3).fit(ROWS, LABELS)


def advised() -> advice.Advice:
    return advice.advise(train_acc=99.0, test_acc=60.0)


def dense() -> ck.Sequential:
    return ck.Sequential(ck.Linear(8, 5, seed=1), ck.ReLU(), ck.Dropout(0.5, seed=2), ck.Linear(5, 3, seed=3))


def itself(value: Any) -> Any:
    return value


# For each public class: a function that makes an object, and one that uses it.
OBJECTS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "GELU": (ck.GELU, layer_run(ROWS)),
    "GELUTanh": (ck.GELUTanh, layer_run(ROWS)),
    "SiLU": (ck.SiLU, layer_run(ROWS)),
    "ReLU": (ck.ReLU, layer_run(ROWS)),
    "Sigmoid": (ck.Sigmoid, layer_run(ROWS)),
    "BatchNorm": (lambda: ck.BatchNorm(8), layer_run(ROWS)),
    "BatchNorm of virtual batches": (lambda: ck.BatchNorm(8, virtual_batch_size=2), layer_run(ROWS)),
    "GroupNorm": (lambda: ck.GroupNorm(1, 3), layer_run(IMAGES)),
    "InstanceNorm": (lambda: ck.InstanceNorm(3, affine=True, track_running_stats=True), layer_run(IMAGES)),
    "LayerNorm": (lambda: ck.LayerNorm(8), layer_run(ROWS)),
    "RMSNorm": (lambda: ck.RMSNorm(8), layer_run(ROWS)),
    "Linear": (lambda: ck.Linear(8, 3, seed=1), layer_run(ROWS)),
    "DropConnect": (lambda: ck.DropConnect(8, 3, seed=1), layer_run(ROWS)),
    "Dropout": (lambda: ck.Dropout(0.5, seed=1), layer_run(ROWS)),
    "SpatialDropout": (lambda: ck.SpatialDropout(0.5, seed=1), layer_run(IMAGES)),
    "AlphaDropout": (lambda: ck.AlphaDropout(0.5, seed=1), layer_run(ROWS)),
    "FeatureAlphaDropout": (lambda: ck.FeatureAlphaDropout(0.5, seed=1), layer_run(IMAGES)),
    "DropPath": (lambda: ck.DropPath(0.5, seed=1), layer_run(ROWS)),
    "DropBlock": (lambda: ck.DropBlock(0.3, 2, seed=1), layer_run(IMAGES)),
    "Embedding": (lambda: ck.Embedding(11, 8, seed=1), lambda layer: [layer(IDS), layer.state_dict()]),
    "PositionalEmbedding": (lambda: ck.PositionalEmbedding(5, 8, seed=1), layer_run(SEQUENCES)),
    "MultiHeadAttention": (lambda: ck.MultiHeadAttention(8, 2, seed=1), layer_run(SEQUENCES)),
    "TransformerBlock": (lambda: ck.TransformerBlock(8, 2, 16, seed=1), layer_run(SEQUENCES)),
    "ResidualNorm": (lambda: ck.ResidualNorm(8, 0.5, seed=1), residual_run),
    "Sequential": (dense, layer_run(ROWS)),
    "Transformer": (
        lambda: ck.Transformer(vocab_size=11, max_length=5, n_layers=2, d_model=8, n_heads=2, seed=1),
        lambda layer: [layer(IDS), layer(IDS), layer.state_dict()],
    ),
    "BertEncoder": (
        lambda: ck.BertEncoder(vocab_size=11, max_length=5, n_layers=2, d_model=8, n_heads=2, seed=1),
        lambda layer: [layer(IDS), layer(IDS), layer.state_dict()],
    ),
    "Parameter": (lambda: next(dense().parameters()), itself),
    "num_threads": (lambda: ck.num_threads(1), threads_run),
    "SGD": (lambda: train.SGD(dense(), 0.1, 0.9, 0.01), optimizer_run),
    "Adam": (lambda: train.Adam(dense(), 0.1), optimizer_run),
    "AdamW": (lambda: train.AdamW(dense(), 0.1), optimizer_run),
    "ParameterGroup": (lambda: train.SGD(dense()).groups[0], vars),
    "Callback": (train.Callback, lambda hook: hook.state_dict()),
    "EarlyStopping": (stopping, lambda hook: [str(hook), hook.state_dict()]),
    "Schedule": (lambda: train.cosine_schedule(9, warmup_steps=2), hook_run),
    "ReduceOnPlateau": (lambda: train.ReduceOnPlateau(patience=1, min_delta=9.0), hook_run),
    "WeightAveraging": (lambda: train.WeightAveraging(1), hook_run),
    "History": (lambda: fit_state().history, vars),
    "Divergence": (lambda: train.Divergence(3, 1, "the loss is nan"), itself),
    "DivergenceError": (lambda: train.DivergenceError("the loss is nan"), repr),
    "DivergenceWarning": (lambda: train.DivergenceWarning("diverged"), repr),
    "FitState": (fit_state, state_run),
    "Parallel": (train.Parallel, lambda parallel: [parallel.leads, parallel.own(LABELS)]),
    "RegularizedNetwork": (lambda: ck.RegularizedNetwork(dropout_p=0.5, norm="batch", seed=1), network_run),
    "RegularizedMLPClassifier": (classifier, classifier_run),
    "RegularizedMLPRegressor": (regressor, regressor_run),
    "Compose": (lambda: aug.Compose(aug.RandomCrop(7), aug.HorizontalFlip()), transform_run(IMAGES)),
    "RandomApply": (lambda: aug.RandomApply(aug.Rotation(20)), transform_run(IMAGES)),
    "OneOf": (lambda: aug.OneOf(aug.Rotation(20), aug.Cutout(3), weights=(1, 2)), transform_run(IMAGES)),
    "RandomCrop": (lambda: aug.RandomCrop((7, 6), 1, "reflect"), transform_run(IMAGES)),
    "HorizontalFlip": (aug.HorizontalFlip, transform_run(IMAGES)),
    "VerticalFlip": (aug.VerticalFlip, transform_run(IMAGES)),
    "Rotation": (lambda: aug.Rotation((5, 20), 0.5), transform_run(IMAGES)),
    "ColorJitter": (lambda: aug.ColorJitter(0.4, 0.4, 0.4, 0.1), transform_run(IMAGES)),
    "Cutout": (lambda: aug.Cutout(3), transform_run(IMAGES)),
    "GaussianNoise": (lambda: aug.GaussianNoise((0, 0.1)), transform_run(IMAGES)),
    "AddNoise": (lambda: aug.AddNoise((5, 20)), transform_run(CLIPS)),
    "Gain": (lambda: aug.Gain(6), transform_run(CLIPS)),
    "TimeShift": (lambda: aug.TimeShift(0.1, 8000, wrap=True), transform_run(CLIPS)),
    "TimeStretch": (lambda: aug.TimeStretch((0.9, 1.1), 3000), repr),
    "PitchShift": (lambda: aug.PitchShift(2, 8000), repr),
    "SynonymReplacement": (
        lambda: aug.SynonymReplacement({"big": ["large", "huge"]}, 0.7),
        transform_run(SENTENCES),
    ),
    "RandomDeletion": (lambda: aug.RandomDeletion(0.3), transform_run(SENTENCES)),
    "RandomSwap": (aug.RandomSwap, transform_run(SENTENCES)),
    "BackTranslation": (lambda: aug.BackTranslation(twice, 0.5), transform_run(SENTENCES)),
    "Mixup": (lambda: aug.Mixup(1.0), mix_run),
    "CutMix": (aug.CutMix, mix_run),
    "Augmentation": (
        lambda: aug.Augmentation(aug.RandomCrop(7), mix=aug.CutMix(), classes=3, seed=1),
        lambda augmentation: augmentation((IMAGES, LABELS), range(6), epoch=2),
    ),
    "AugmentBatches": (lambda: aug.AugmentBatches(aug.Augmentation(aug.GaussianNoise(0.1), seed=1)), batches_run),
    "AugmentedDataset": (dataset, lambda data: [data[i] for i in range(6)]),
    "Advice": (advised, str),
    "Remedy": (lambda: advised().remedies[0], itself),
    "Curves": (lambda: advice.advise(history={"loss": [0.9, 0.5], "val_loss": [0.9, 0.6]}).curves, itself),
    "HistoryFigures": (
        lambda: (
            advice.advise(
                history={
                    "train_loss": [1.0, 0.5],
                    "test_loss": [1.0, 0.8],
                    "train_acc": [50.0, 90],
                    "test_acc": [50.0, 70],
                }
            ).history
        ),
        itself,
    ),
    "torch.Dropout": (module("Dropout", 0.5), module_run(ROWS)),
    "torch.Dropout1d": (module("Dropout1d", 0.5), module_run(SEQUENCES)),
    "torch.Dropout2d": (module("Dropout2d", 0.5), module_run(IMAGES)),
    "torch.BatchNorm1d": (module("BatchNorm1d", 8), module_run(ROWS)),
    "torch.BatchNorm2d": (module("BatchNorm2d", 3), module_run(IMAGES)),
    "torch.SyncBatchNorm": (module("SyncBatchNorm", 8), module_run(ROWS)),
    "torch.GroupNorm": (module("GroupNorm", 1, 3), module_run(IMAGES)),
    "torch.InstanceNorm1d": (module("InstanceNorm1d", 5), module_run(SEQUENCES)),
    "torch.InstanceNorm2d": (module("InstanceNorm2d", 3, affine=True, track_running_stats=True), module_run(IMAGES)),
    "torch.InstanceNorm3d": (module("InstanceNorm3d", 3), module_run(IMAGES[:, :, None])),
    "torch.LayerNorm": (module("LayerNorm", 8), module_run(ROWS)),
    "torch.RMSNorm": (module("RMSNorm", 8), module_run(ROWS)),
    "torch.MultiheadAttention": (module("MultiheadAttention", 8, 2, 0.1), attention_run),
    "torch.TransformerEncoderLayer": (module("TransformerEncoderLayer", 8, 2, 16), module_run(SEQUENCES)),
    "torch.Entry": (lambda: report().entries[0], itself),
    "torch.Report": (report, str),
    "torch.OpEntry": (op_entry, itself),
    "torch.OpReport": (lambda: torch_room().OpReport((op_entry(),)), str),
    "torch.Profile": (lambda: torch_room().Profile(2.0, 1.5, 1.6, 1.4, 1.2, "enable()", 1.33, 0.02), str),
    "torch.enable": (enable, enabled_within),
    "CommandError": (lambda: CommandError("unknown experiment 'x'"), repr),
    "SheetError": (lambda: sheet.SheetError("x is no image"), repr),
    "ReportError": (lambda: speed_report.ReportError("x"), repr),
}
ABSTRACT = {"Layer", "Optimizer", "Transform"}
COPIES = [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy, copy.copy]


def prepared(name: str) -> tuple[Any, Callable[[Any], Any]]:
    """An object that was used once, and the function that uses it."""
    make, run = OBJECTS[name]
    made = make()
    run(made)
    return made, run


@pytest.mark.parametrize("copied", COPIES, ids=["pickle", "deepcopy", "copy"])
@pytest.mark.parametrize("name", OBJECTS)
def test_a_copy_behaves_as_the_original(name: str, copied: Callable[[Any], Any]) -> None:
    if name in ("SynonymReplacement", "RandomDeletion", "RandomSwap"):
        pytest.importorskip("regex", reason="regex is not installed")
    original, run = prepared(name)
    expected = plain(run(original))
    original, _ = prepared(name)
    twin = copied(original)
    assert type(twin) is type(original)
    assert plain(run(twin)) == expected
    if copied is not copy.copy:
        assert plain(run(original)) == expected


def test_every_public_class_is_copied_here() -> None:
    public = set()
    for module_name, prefix in (("", ""), (".train", ""), (".augment", ""), (".advice", ""), (".torch", "torch.")):
        try:
            home = importlib.import_module(f"cregkit{module_name}")
        except ImportError:
            continue
        public |= {prefix + name for name in home.__all__ if inspect.isclass(getattr(home, name))}
    assert public - ABSTRACT <= set(OBJECTS)


def test_a_shallow_copy_of_dropout_has_its_own_offset() -> None:
    for layer, x in ((ck.Dropout(0.5, seed=1), ROWS), (ck.SpatialDropout(0.5, seed=1), IMAGES)):
        twin = copy.copy(layer)
        assert layer(x).tobytes() == twin(x).tobytes()
        assert layer(x).tobytes() == twin(x).tobytes()


def test_a_copied_optimizer_trains_the_copied_network() -> None:
    network = dense()
    optimizer = train.Adam(network, 0.1)
    expected = plain(optimizer_run(optimizer))
    network = dense()
    for copied in COPIES[:2]:
        pair = network, train.Adam(network, 0.1)
        twin, its_optimizer = copied(pair)
        assert its_optimizer.network is twin
        assert plain(optimizer_run(its_optimizer)) == expected
        assert plain(list(network.state_dict().values())) == plain(list(dense().state_dict().values()))
