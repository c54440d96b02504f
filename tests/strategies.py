"""Hypothesis strategies that several test files share."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lungunet.data.codec import LabelCodec

INTEGER_DTYPES = ("uint8", "int16", "uint16", "int32", "int64", ">i2", "uint32")


@st.composite
def one_to_one_codecs(draw):
    """Any map of 2 to 255 classes that merges nothing; raw values negative and large too."""
    raw_values = draw(
        st.lists(
            st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 300),
            min_size=2,
            max_size=draw(st.sampled_from([2, 3, 12, 255])),
            unique=True,
        )
    )
    return LabelCodec({raw: index for index, raw in enumerate(raw_values)})


@st.composite
def views(draw, elements, *, dtypes=INTEGER_DTYPES):
    """Arrays of ``elements`` with 0 to 3 axes, empty ones, and views that are not contiguous."""
    array = draw(
        hnp.arrays(
            draw(st.sampled_from(dtypes)),
            hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9),
            elements=elements,
        )
    )
    how = draw(st.sampled_from(["plain", "flipped", "strided", "turned", "fortran"]))
    if how == "flipped":
        return array[..., ::-1]
    if how == "strided":
        return np.repeat(array, 2, axis=0)[::2]
    if how == "turned":
        return array.T
    return np.asfortranarray(array) if how == "fortran" else array


slice_shapes = st.tuples(st.integers(1, 90), st.integers(1, 90))
"""Lopsided more often than not, down to one pixel."""
