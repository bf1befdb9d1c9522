"""Suppression: equal to torchvision's, whichever way it is computed, and through ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import nms

from lab.core.errors import DataError
from lab.core.signature import Signature, TensorSpec
from lab.export.onnx_export import export_onnx
from lab.nn.nms import _fixpoint, _overlaps, float32_below, keep_mask
from lab.nn.onnx_functions import FUNCTIONS


def reference(boxes_RK4: Tensor, valid_RK: Tensor, threshold: float) -> Tensor:
    keep_RK = torch.zeros_like(valid_RK)
    for r, (boxes_K4, valid_K) in enumerate(zip(boxes_RK4, valid_RK, strict=True)):
        (index,) = valid_K.nonzero(as_tuple=True)
        scores = torch.linspace(1, 0, len(valid_K))
        keep_RK[r, index[nms(boxes_K4[index], scores[index], threshold)]] = True
    return keep_RK


def by_fixpoint(boxes_RK4: Tensor, valid_RK: Tensor, threshold: float) -> Tensor:
    """What a GPU computes."""
    return _fixpoint(_overlaps(boxes_RK4, float32_below(threshold)), valid_RK)


def random_rows(num_rows: int, num_boxes: int, seed: int, grid: bool = False) -> tuple[Tensor, Tensor]:
    """Overlapping boxes; on a grid of whole numbers, overlaps tie with round thresholds."""
    generator = torch.Generator().manual_seed(seed)
    top_left = torch.rand(num_rows, num_boxes, 2, generator=generator) * 20
    size = torch.rand(num_rows, num_boxes, 2, generator=generator) * 10
    boxes = torch.cat([top_left, top_left + size], dim=-1)
    return (boxes.round() if grid else boxes), torch.rand(num_rows, num_boxes, generator=generator) > 0.2


@given(
    rows=st.integers(1, 4), boxes=st.integers(1, 33), seed=st.integers(0, 10**6), grid=st.booleans(),
    threshold=st.sampled_from([0.0, 0.25, 0.45, 0.5, 0.6, 0.7, 1.0]),
)  # fmt: skip
def test_equal_to_torchvision_and_idempotent(rows: int, boxes: int, seed: int, grid: bool, threshold: float) -> None:
    boxes_RK4, valid_RK = random_rows(rows, boxes, seed, grid)
    expected = reference(boxes_RK4, valid_RK, threshold)
    for function in (keep_mask, by_fixpoint):
        keep_RK = function(boxes_RK4, valid_RK, threshold)
        assert torch.equal(keep_RK, expected)
        assert torch.equal(function(boxes_RK4, keep_RK, threshold), keep_RK)


@pytest.mark.parametrize("function", [keep_mask, by_fixpoint])
@pytest.mark.parametrize("num_boxes", [1, 2, 5, 32, 65])
def test_a_chain_alternates(function, num_boxes: int) -> None:  # type: ignore[no-untyped-def]
    """Each box overlaps only its neighbours, so every second one goes: as many rounds as there are boxes."""
    left = torch.arange(num_boxes) * 4.0
    boxes_1K4 = torch.stack([left, 0 * left, left + 10, 0 * left + 10], dim=-1)[None]
    keep = function(boxes_1K4, torch.ones(1, num_boxes, dtype=torch.bool), 0.3)
    assert keep[0].tolist() == [i % 2 == 0 for i in range(num_boxes)]


def test_boxes_without_area_overlap_nothing() -> None:
    boxes = torch.tensor([[[3.0, 3, 3, 3]] * 3])
    assert keep_mask(boxes, torch.ones(1, 3, dtype=torch.bool), 0.0).all()


def test_nothing_valid_and_no_boxes() -> None:
    for num_boxes in (0, 3):
        boxes, none = torch.rand(2, num_boxes, 4), torch.zeros(2, num_boxes, dtype=torch.bool)
        assert not keep_mask(boxes, none, 0.5).any()
        assert not by_fixpoint(boxes, none, 0.5).any()


def test_the_threshold_keeps_its_meaning_in_float32() -> None:
    assert [float32_below(value) for value in (0.5, 0.0, 1.0)] == [0.5, 0.0, 1.0]
    assert all(float32_below(t) <= t < float32_below(t) + 1e-7 for t in (0.1, 0.3, 0.45, 0.6, 0.7))


@pytest.mark.parametrize(
    ("boxes", "valid"),
    [
        (torch.rand(3, 4), torch.ones(3, dtype=torch.bool)),
        (torch.rand(2, 3, 4), torch.ones(2, 4, dtype=torch.bool)),
        (torch.rand(2, 3, 4), torch.ones(2, 3)),
        (torch.ones(2, 3, 4, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)),
    ],
)
def test_wrong_shapes_and_types(boxes: Tensor, valid: Tensor) -> None:
    with pytest.raises(DataError, match="nms takes"):
        keep_mask(boxes, valid, 0.5)


class Suppress(nn.Module):
    def forward(self, boxes_RK4: Tensor, scores_RK: Tensor) -> tuple[Tensor, Tensor]:
        keep_RK = keep_mask(boxes_RK4, scores_RK > 0.2, 0.45)
        return keep_RK, keep_RK.sum(dim=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    signature = Signature(
        (TensorSpec("boxes", "float32", ("batch", 33, 4)), TensorSpec("scores", "float32", ("batch", 33))),
        (TensorSpec("keep", "bool", ("batch", 33)), TensorSpec("num", "int64", ("batch",))),
    )
    return export_onnx(Suppress(), signature, tmp_path_factory.mktemp("nms") / "m.onnx", opset=20)


def test_the_file_calls_one_function_of_standard_operators(exported: Path) -> None:
    model = onnx.load(exported)
    assert [node.op_type for node in model.graph.node if node.domain == "lab"] == ["NmsKeep"]
    (function,) = model.functions
    assert {node.domain for node in function.node} == {""}


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("num_rows", [1, 7])
def test_onnx_runtime_computes_the_same(exported: Path, num_rows: int, grid: bool) -> None:
    boxes, valid = random_rows(num_rows, 33, seed=num_rows, grid=grid)
    scores = valid.float().sort(descending=True, dim=1).values
    session = onnxruntime.InferenceSession(str(exported))
    keep, num = session.run(None, {"boxes": boxes.numpy(), "scores": scores.numpy()})
    expected = reference(boxes, scores > 0.2, 0.45).numpy()
    np.testing.assert_array_equal(keep, expected)
    np.testing.assert_array_equal(num, expected.sum(1))


def test_openvino_reads_it(exported: Path) -> None:
    pytest.importorskip("openvino")
    from lab.runtime.openvino_runner import OpenVinoRunner

    boxes, valid = random_rows(3, 33, seed=3)
    runner = OpenVinoRunner(exported, num_threads=1)
    outputs = runner.run({"boxes": boxes.numpy(), "scores": valid.float().numpy()})
    np.testing.assert_array_equal(outputs["keep"], reference(boxes, valid, 0.45).numpy())
    runner.close()


def test_every_function_of_the_table_is_named_as_its_entry() -> None:
    assert [function.name for function in FUNCTIONS.values()] == list(FUNCTIONS)
    assert all(function.body(18).name == name for name, function in FUNCTIONS.items())
