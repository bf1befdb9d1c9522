"""Kernels written by hand, on their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.tirx import PrimFunc

from lab.compile.kernels import emit, resize, suppression, top_k
from lab.compile.kernels.bilinear import bilinear
from lab.compile.targets import resolve_target
from lab.nn.nms import keep_mask
from tests.nn.test_nms import random_rows


def run(func: PrimFunc, *arrays: np.ndarray) -> None:
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    tvm.compile(module, target=resolve_target("x86").to_tvm())["main"](*tensors)
    for array, tensor in zip(arrays, tensors, strict=True):
        array[...] = tensor.numpy()


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 3), num=st.integers(1, 40), k=st.integers(1, 40), largest=st.booleans(),
    levels=st.integers(1, 50), seed=st.integers(0, 99),
)  # fmt: skip
def test_top_k_is_a_stable_sort(rows: int, num: int, k: int, largest: bool, levels: int, seed: int) -> None:
    """Few levels make many ties, of which the lower index comes first."""
    k = min(k, num)
    x = np.random.default_rng(seed).integers(0, levels, (rows, num)).astype(np.float32)
    values, indices = np.zeros((rows, k), np.float32), np.zeros((rows, k), np.int64)
    run(top_k.on_cpu(rows, num, k, largest=largest, dtype="float32", index_dtype="int64"), x, values, indices)
    order = np.argsort(-x if largest else x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, axis=1))


@pytest.mark.parametrize(("rows", "boxes", "lanes"), [(1, 1, 16), (3, 16, 16), (5, 33, 8), (2, 400, 4)])
@pytest.mark.parametrize("grid", [False, True])
def test_suppression_is_torchvisions(rows: int, boxes: int, lanes: int, grid: bool) -> None:
    boxes_RK4, valid_RK = random_rows(rows, boxes, seed=boxes, grid=grid)
    keep_RK = np.zeros((rows, boxes), bool)
    run(suppression.on_cpu(rows, boxes, 0.45, lanes), boxes_RK4.numpy(), valid_RK.numpy(), keep_RK)
    np.testing.assert_array_equal(keep_RK, keep_mask(boxes_RK4, valid_RK, 0.45).numpy())


def test_suppression_compiles_for_a_gpu() -> None:
    func = suppression.on_gpu(3, 400, 0.45)
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    built = tvm.compile(module, target=resolve_target("cuda:sm_90").to_tvm())
    assert "__syncthreads" in built.mod.imports[0].inspect_source()


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(("size", "new"), [((5, 7), (40, 56)), ((1, 1), (3, 4)), ((9, 8), (4, 3)), ((6, 6), (65, 65))])
def test_resize_is_torchs(size: tuple[int, int], new: tuple[int, int], align: bool) -> None:
    mode = "align_corners" if align else "half_pixel"
    x = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(x), size=new, mode="bilinear", align_corners=align)
    tables = [table for old, fresh in zip(size, new, strict=True) for table in resize.taps(old, fresh, mode)]
    planes = np.zeros((6, *new), np.float32)
    run(bilinear(list(x.shape), *new, "NCHW"), x.reshape(6, *size), *tables, planes)
    np.testing.assert_allclose(planes.reshape(wanted.shape), wanted, atol=2e-6)
    last = np.zeros((2, *new, 3), np.float32)
    run(bilinear([2, *size, 3], *new, "NHWC"), np.ascontiguousarray(x.transpose(0, 2, 3, 1)), *tables, last)
    np.testing.assert_allclose(last.transpose(0, 3, 1, 2), wanted, atol=2e-6)


def test_kernels_know_their_names() -> None:
    assert emit.name_of(suppression.on_cpu(1, 2, 0.5, 4)) == suppression.NAME
    plain = tvm.te.create_prim_func([tvm.te.placeholder((1,), name="x")])
    assert emit.name_of(plain) == ""
