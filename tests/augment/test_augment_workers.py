"""An augmented data set in worker processes of every start method, its copies, and images of several sizes."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from augmented import X, data_set, hold, of_held, sample_of
from support import Array, run_python

from cregkit import augment as aug

METHODS = multiprocessing.get_all_start_methods()
EPOCHS = (1, 2, 2**64 - 1)


def at(dataset: Any, epoch: int) -> list[bytes]:
    """The samples of an epoch, from a new data set."""
    fresh = data_set()
    fresh.set_epoch(epoch)
    return samples(fresh)


def samples(dataset: Any) -> list[bytes]:
    return [dataset[i][0].tobytes() for i in range(12)]


@pytest.mark.parametrize("method", METHODS)
def test_workers_of_a_pool_use_the_new_epoch(method: str) -> None:
    dataset = data_set()
    dataset.set_epoch(9)
    with multiprocessing.get_context(method).Pool(2, hold, (dataset,)) as pool:
        for epoch in (9, *EPOCHS):
            dataset.set_epoch(epoch)
            assert pool.map(of_held, range(12)) == at(dataset, epoch)
            assert pool.starmap(sample_of, [(dataset, i) for i in range(12)]) == at(dataset, epoch)


@pytest.mark.parametrize("persistent", [False, True], ids=["new workers", "persistent workers"])
@pytest.mark.parametrize("method", METHODS)
def test_workers_of_a_data_loader_use_the_new_epoch(method: str, persistent: bool) -> None:
    data = pytest.importorskip("torch.utils.data", reason="PyTorch is not installed")
    dataset = data_set()
    loader = data.DataLoader(
        data.Subset(dataset, range(12)),
        5,
        num_workers=2,
        persistent_workers=persistent,
        multiprocessing_context=method,
        prefetch_factor=3,
    )
    for epoch in EPOCHS:
        dataset.set_epoch(epoch)
        assert [x.numpy().tobytes() for batch, _ in loader for x in batch] == at(dataset, epoch)


def test_workers_of_joblib_use_the_new_epoch() -> None:
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    dataset = data_set()
    for epoch in EPOCHS:
        dataset.set_epoch(epoch)
        found = joblib.Parallel(2)(joblib.delayed(sample_of)(dataset, i) for i in range(12))
        assert found == at(dataset, epoch)


@pytest.mark.parametrize(
    ("copied", "shares"),
    [(copy.deepcopy, False), (lambda d: pickle.loads(pickle.dumps(d)), False), (copy.copy, True)],
    ids=["deepcopy", "pickle", "copy"],
)
def test_a_copy_keeps_the_epoch(copied: Callable[[Any], Any], shares: bool) -> None:
    dataset = data_set()
    dataset.set_epoch(3)
    twin = copied(copied(dataset))
    assert samples(twin) == at(dataset, 3)
    dataset.set_epoch(4)
    assert samples(twin) == at(dataset, 4 if shares else 3)
    twin.set_epoch(5)
    assert samples(dataset) == at(dataset, 5 if shares else 4)


PROGRAM = """
import multiprocessing, numpy as np
from augmented import data_set, hold, of_held
if __name__ == "__main__":
    for method in multiprocessing.get_all_start_methods():
        dataset = data_set()
        with multiprocessing.get_context(method).Pool(2, hold, (dataset,)) as pool:
            pool.map(of_held, range(12))
    print("done")
"""


def test_programs_with_workers_exit_without_warnings(tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ended = run_python("-W", "error", str(program))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_many_data_sets_keep_no_open_files() -> None:
    one = data_set()
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    for _ in range(2000):
        one = data_set()
    assert len(os.listdir("/dev/fd")) <= before + 2
    assert len(one) == 12


def images(*sides: tuple[int, int]) -> list[tuple[Array, int]]:
    random = np.random.default_rng(1)
    return [(random.random((3, *side), dtype=np.float32), i) for i, side in enumerate(sides)]


SIZES = ((9, 12), (8, 8), (20, 9), (9, 12), (9, 12), (10, 10))


@pytest.mark.parametrize("kind", ["pairs", "list of arrays", "array of objects", "views"])
def test_images_of_different_sizes_are_cropped_to_the_same_in_any_batch(kind: str) -> None:
    pairs = images(*SIZES)
    objects = np.empty(len(pairs), object)
    objects[:] = [x for x, _ in pairs]
    labels = np.arange(len(pairs))
    views = [np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1) for x in objects]
    data: Any = {
        "pairs": pairs,
        "list of arrays": (list(objects), labels),
        "array of objects": (objects, labels),
        "views": (views, labels),
    }[kind]
    pipeline = aug.Compose(aug.RandomCrop(8), aug.RandomApply(aug.HorizontalFlip()), aug.GaussianNoise(0.1))
    for mix in (None, aug.Mixup(1.0), aug.CutMix()):
        augmentation = aug.Augmentation(pipeline, mix=mix, classes=6, seed=2)
        x, targets = augmentation(data, range(6), epoch=1)
        assert x.shape == (6, 3, 8, 8)
        for rows in ([3], [0, 3, 4], [5, 1], [2, 2], []):
            part, part_targets = augmentation(data, rows, epoch=1)
            assert (part.shape, part.tobytes()) == ((len(rows), 3, 8, 8), x[rows].tobytes())
            assert (part_targets.dtype, part_targets.tolist()) == (targets.dtype, targets[rows].tolist())
        dataset = aug.AugmentedDataset(data, augmentation)
        dataset.set_epoch(1)
        assert np.array_equal(dataset[4][0], x[4])


def test_images_that_keep_different_sizes_are_refused() -> None:
    augmentation = aug.Augmentation(aug.HorizontalFlip(), seed=1)
    with pytest.raises(ValueError, match=r"one shape .* got \(3, 9, 12\) and \(3, 8, 8\): .* RandomCrop"):
        augmentation(images(*SIZES), [0, 1], epoch=0)
    with pytest.raises(ValueError, match=r"one shape .* got \(3, 9, 12\) and \(3, 8, 8\)"):
        aug.Augmentation(seed=1)(images(*SIZES), [0, 1], epoch=0)


def test_a_view_of_images_is_augmented_to_the_same_in_any_batch() -> None:
    last = np.ascontiguousarray(np.moveaxis(X, 1, -1))
    augmentation = aug.Augmentation(aug.RandomApply(aug.HorizontalFlip()), seed=3)
    whole, _ = augmentation((X, np.arange(12)), range(12), epoch=0)
    for rows in ([0], [5, 2], range(12)):
        of_view, _ = augmentation((np.moveaxis(last, -1, 1), np.arange(12)), rows, epoch=0)
        assert of_view.tobytes() == whole[list(rows)].tobytes()
