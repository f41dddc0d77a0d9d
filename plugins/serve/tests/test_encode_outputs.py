"""Outputs of a job as JSON: values that are no pictures are refused, as they are where files are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from guidegraph_runtime import Bundle
from guidegraph_serve.service import encode_outputs


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((0, 3, 2, 2), np.float32), "output 'image' is an empty batch"),
        (np.zeros((1, 4, 2, 2), np.float32), r"output 'image' is declared as an image \(B, 3, H, W\)"),
        (np.full((1, 3, 2, 2), np.nan, np.float32), "output 'image' is not a picture: 12 of 12 values are NaN"),
    ],
)
def test_values_that_are_no_pictures_are_named(alone: Bundle, value: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_outputs(alone, {}, {}, {"image": value})
