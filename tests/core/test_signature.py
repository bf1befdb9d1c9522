from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import DataError
from lab.core.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec("image", "float32", ("batch", 3, 5, 7)), TensorSpec("scale", "float32", ("batch",))),
    outputs=(TensorSpec("logits", "float32", ("batch", 11)),),
)


def test_round_trip() -> None:
    assert Signature.from_dict(SIGNATURE.to_dict()) == SIGNATURE


@given(batch=st.integers(1, 13))
def test_example_inputs_fit_their_signature(batch: int) -> None:
    arrays = SIGNATURE.example_inputs({"batch": batch})
    assert SIGNATURE.check_inputs(arrays) == {"batch": batch}
    assert arrays["image"].shape == (batch, 3, 5, 7)


def test_example_inputs_depend_on_the_seed_only() -> None:
    first, again, other = (SIGNATURE.example_inputs(seed=seed)["image"] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((2, 3, 5, 7))}, "wrong dtype"),
        ({"image": np.zeros((2, 3, 5), "float32")}, "number of dimensions"),
        ({"image": np.zeros((2, 3, 7, 5), "float32")}, "wrong shape"),
        ({"scale": np.zeros(3, "float32")}, "wrong shape"),
        ({"other": np.zeros(3, "float32")}, "names do not match"),
    ],
)
def test_check_says_what_is_wrong(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SIGNATURE.check_inputs(SIGNATURE.example_inputs({"batch": 2}) | change)
