"""Random shapes: every op agrees with the oracle, with the same bits on every instruction set."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support import bits, each_case, each_isa, lacks_variance, results_of

from cregkit.verify import cases
from cregkit.verify.shapes import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    COLUMNS,
    ELEMENTS,
    GROUPS,
    GROUPS_LAST,
    IMAGES,
    IMAGES_LAST,
    LEADING,
    MAPS,
    MATRICES,
    PLANES,
    ROWS,
    WEIGHTS,
    Shape,
)

side = st.integers(1, 40)
# At least four channels (and 16 weights): one sum alone may cancel by chance, which leaves no scale for its error.
channels = st.integers(4, 40)
SHAPES: dict[tuple[Shape, ...], st.SearchStrategy[Shape]] = {
    ROWS: st.one_of(
        st.tuples(st.integers(0, 70), st.integers(4, 300)),
        st.tuples(side, st.integers(4000, 4300)),
        st.tuples(st.integers(0, 5), side, side, channels),
        st.tuples(st.integers(4, 300)),
    ),
    MATRICES: st.one_of(
        st.tuples(st.integers(0, 70), side, channels),
        st.tuples(st.integers(1, 4), st.integers(1, 4), side, channels),
        st.tuples(st.integers(1, 3), st.integers(90, 110), channels),
    ),
    CHANNELS_FIRST: st.one_of(
        st.tuples(st.integers(0, 5), channels, st.integers(1, 600)),
        st.tuples(st.integers(1, 3), channels, side, side),
        st.tuples(st.integers(1, 2), st.integers(1000, 1100), side),
    ),
    LEADING: st.tuples(st.integers(4, 150), st.integers(1, 300)),
    COLUMNS: st.tuples(st.integers(2, 150), st.integers(4, 150)),
    PLANES: st.one_of(
        st.tuples(st.integers(2, 9), channels, side),
        st.tuples(st.integers(2, 5), channels, side, side),
        st.tuples(st.integers(1, 3), st.just(4), st.integers(4000, 4300)),
    ),
    CHANNELS_LAST: st.one_of(
        st.tuples(st.integers(2, 9), side, channels),
        st.tuples(st.integers(2, 4), side, side, channels),
    ),
    GROUPS: st.one_of(
        st.tuples(st.integers(0, 9), channels),
        st.tuples(st.integers(0, 9), channels, side),
        st.tuples(st.integers(1, 5), channels, side, side),
        st.tuples(st.integers(1, 3), st.just(4), st.integers(4000, 4300)),
    ),
    GROUPS_LAST: st.one_of(
        st.tuples(st.integers(0, 9), side, channels),
        st.tuples(st.integers(1, 4), side, side, channels),
        st.tuples(st.integers(1, 3), st.integers(1, 5), st.sampled_from([320, 640, 1280])),
    ),
    WEIGHTS: st.one_of(
        st.tuples(st.integers(1, 70), st.integers(0, 300)),
        st.tuples(side, st.integers(4000, 4300)),
        st.tuples(side, st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    ),
    ELEMENTS: st.one_of(st.tuples(st.integers(16, 5000)), st.tuples(st.just(0)), st.tuples(side, side, channels)),
    IMAGES: st.tuples(st.integers(1, 9), st.sampled_from([1, 3]), side, side),
    IMAGES_LAST: st.tuples(st.integers(1, 9), side, side, st.sampled_from([1, 3])),
    MAPS: st.one_of(st.tuples(side, st.integers(1, 300)), st.tuples(st.integers(1, 5), side, side, side)),
}


@each_case
@given(data=st.data())
def test_any_shape_agrees_with_the_oracle_and_has_the_same_bits_on_every_isa(
    case: cases.Case, data: st.DataObject
) -> None:
    shape = data.draw(SHAPES[case.shapes].filter(lambda shape: not lacks_variance(case, shape)))
    arguments = case.arguments(shape, np.random.default_rng(data.draw(st.integers(0, 2**32))), 0.0)
    wanted = cases.reference(case, arguments)
    found = set()
    for isa in each_isa():
        got = results_of(case, arguments)
        found.add(tuple(bits(got).items()))
        for name, share in cases.errors(case, arguments, got, wanted).items():
            assert share <= 1.0, f"{isa}: {name} is off by {share:.3g} tolerances"
    assert len(found) == 1
