"""What an import brings with it: each room alone, and nothing that only another one needs."""

from __future__ import annotations

import pytest
from support import run_python

import cregkit
from cregkit import train

LOADED = (
    "import sys, {room}; print(*sorted({{name.split('.')[1] for name in sys.modules if name.startswith('cregkit.')}}))"
)


@pytest.mark.parametrize(
    ("room", "absent"),
    [
        ("cregkit", {"kernels", "layers", "train"}),
        ("cregkit.commands", {"kernels", "layers", "train", "lab", "verify"}),
        ("cregkit.advice", {"kernels", "layers", "train"}),
        ("cregkit.layers", {"train", "commands", "oracle"}),
        ("cregkit.train", {"lab", "commands", "oracle"}),
        ("cregkit.augment", {"lab", "commands", "oracle"}),
    ],
)
def test_a_room_is_imported_without_those_above_it(room, absent):
    done = run_python("-c", LOADED.format(room=room))
    assert not absent & set(done.stdout.split()), done.stderr
    assert done.returncode == 0, done.stderr


def test_the_network_of_the_laboratory_is_a_name_of_the_package_and_of_train():
    assert cregkit.RegularizedNetwork is train.RegularizedNetwork
    assert {"RegularizedNetwork", "RegularizedMLPClassifier", "RegularizedMLPRegressor"} <= set(dir(train))
    with pytest.raises(AttributeError, match=r"module 'cregkit\.train' has no attribute 'Unknown'"):
        train.Unknown  # noqa: B018
