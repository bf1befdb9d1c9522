"""Small models to serve: a linear classifier of images in ONNX, as an export folder, and one that adds two tensors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lab.artifacts.golden import Golden, write_golden
from lab.artifacts.manifest import Manifest
from lab.core.signature import Signature, TensorSpec
from lab.data.preprocess import ImagePreprocessing
from lab.tasks.classification import deploy

SIZE, NUM_CLASSES = 8, 4
LABELS = ("red", "green", "blue", "grey")
PREPROCESSING = ImagePreprocessing((3, SIZE, SIZE), crop="none", mean=(0.0,) * 3, std=(1.0,) * 3)


def weights(seed: int = 0) -> np.ndarray:
    """Float32 [inputs, classes]."""
    return np.random.default_rng(seed).standard_normal((3 * SIZE * SIZE, NUM_CLASSES)).astype(np.float32)


def classifier(folder: Path, *, seed: int = 0, golden: str = "right") -> Path:
    """An export folder; `golden` is "right", "wrong" or "none"."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", NUM_CLASSES])
    graph = helper.make_graph(nodes, "g", [image], [logits], [numpy_helper.from_array(weights(seed), "w")])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "model.onnx")
    files = ["model.onnx"]
    if golden != "none":
        x = np.random.default_rng(1).random((2, 3, SIZE, SIZE)).astype(np.float32)
        right = x.reshape(2, -1) @ weights(seed)
        write_golden(folder, Golden({"image": x}, {"logits": right + (golden == "wrong")}))
        files.append("golden.npz")
    manifest = Manifest(
        kind="onnx", name=f"linear-{seed}", signature=deploy.signature((3, SIZE, SIZE), NUM_CLASSES),
        task="classification", labels=LABELS, preprocessing=PREPROCESSING.to_dict(),
    )  # fmt: skip
    manifest.with_files(folder, files).save(folder)
    return folder


def adder(folder: Path) -> Path:
    """int64 [batch, 4] + int64 [batch, 4], of no task: what tritonclient's own example calls `simple`."""
    folder.mkdir(parents=True)
    ports = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", 4]) for n in ("a", "b", "sum", "difference")]
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    graph = helper.make_graph(nodes, "g", ports[:2], ports[2:])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "model.onnx")
    specs = [TensorSpec(name, "int64", ("batch", 4)) for name in ("a", "b", "sum", "difference")]
    manifest = Manifest(kind="onnx", name="adder", signature=Signature(tuple(specs[:2]), tuple(specs[2:])))
    manifest.with_files(folder, ["model.onnx"]).save(folder)
    return folder


def scaler(folder: Path, factor: float, source: str, target: str, shape: tuple[int | str, ...]) -> Path:
    """float32 `target` = factor * `source`; of no task: a step of a pipeline."""
    folder.mkdir(parents=True)
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, list(shape)) for port in (source, target)]
    node = helper.make_node("Mul", [source, "factor"], [target])
    constant = numpy_helper.from_array(np.asarray(factor, np.float32), "factor")
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], [constant])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "model.onnx")
    signature = Signature((TensorSpec(source, "float32", shape),), (TensorSpec(target, "float32", shape),))
    Manifest(kind="onnx", name=folder.name, signature=signature).with_files(folder, ["model.onnx"]).save(folder)
    return folder
