"""The detector: shapes, torchvision's weights and answers, freezing, export of every variant."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.vgg import cfgs, make_layers

from lab.core.errors import ArtifactError, ConfigError
from lab.tasks.detection import deploy
from lab.tasks.detection.config import BoxesConfig, DetectConfig, ModelConfig
from lab.tasks.detection.models import MODELS
from lab.tasks.detection.models.extras import extra_steps
from lab.tasks.detection.models.ssd import SSD, suppress
from lab.tasks.detection.models.vgg import VggFeatures, from_torchvision_features
from lab.tasks.detection.numpy_boxes import pairs
from lab.tasks.detection.published import MEAN, STD, from_torchvision, published


def detector(name: str, size: int = 64, num_classes: int = 3, **options: Any) -> SSD:
    torch.manual_seed(0)
    detect = options.pop("detect", DetectConfig())
    return SSD(ModelConfig(name=name, **options), size, num_classes, BoxesConfig(), detect).eval()  # type: ignore[arg-type]


def test_extra_layers_shrink_as_in_the_paper() -> None:
    assert [step[-1] for step in extra_steps(19)] == [10, 5, 3, 1]
    assert [step[-1] for step in extra_steps(32)] == [16, 8, 4, 2, 1]
    for side in range(1, 80):
        now = side
        for kernel, stride, padding, expected in extra_steps(side):
            now = (now + 2 * padding - kernel) // stride + 1
            assert now == expected
        assert now == 1


@pytest.mark.parametrize(
    ("name", "size", "boxes"), [("vgg16", 300, 8732), ("vgg16", 512, 24564), ("resnet34", 300, 8732)]
)
def test_default_boxes_of_the_papers_sizes(name: str, size: int, boxes: int) -> None:
    with torch.device("meta"):
        assert len(detector(name, size).defaults_A4) == boxes


def test_nvidias_pyramid_keeps_layer3_at_stride_8() -> None:
    with torch.device("meta"):
        model = detector("resnet50", 300, pyramid="layer3")
        assert len(model.defaults_A4) == 8732
        assert model.heads.classes[0].in_channels == 1024
        assert [m.dilation for m in model.backbone.layer3.modules() if isinstance(m, nn.Conv2d)] == [(1, 1)] * 19


def test_a_narrow_resnet_is_narrow_everywhere() -> None:
    wide, narrow = detector("resnet18"), detector("resnet18", width=16)
    assert [head.in_channels for head in wide.heads.classes] == [128, 256, 512, 256]
    assert [head.in_channels for head in narrow.heads.classes] == [32, 64, 128, 64]
    assert narrow.backbone.layer1[0].conv1.in_channels == 16
    assert {name.rsplit(".", 1)[0] for name in narrow.state_dict()} == {n.rsplit(".", 1)[0] for n in wide.state_dict()}
    assert torch.equal(narrow.defaults_A4, wide.defaults_A4)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_shapes_of_every_architecture(name: str) -> None:
    model = detector(name)
    count = len(model.defaults_A4)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        codes, logits = model.raw(x)
        boxes, scores, labels, found = model(x)
    assert (codes.shape, logits.shape) == ((2, count, 4), (2, count, 4))
    assert (boxes.shape, scores.shape, labels.shape, found.shape) == ((2, 200, 4), (2, 200), (2, 200), (2,))
    for row in range(2):
        number = int(found[row])
        assert 0 < number <= 200
        assert bool((scores[row, :number].diff() <= 0).all())
        assert bool((labels[row, :number] >= 0).all()), bool((labels[row, number:] == -1).all())
        assert not bool(scores[row, number:].any()), bool(boxes[row, number:].any())
    assert bool(((boxes >= 0) & (boxes <= 1)).all())
    model.train()
    assert [tuple(out.shape) for out in model(torch.randn(2, 3, 64, 64))] == [(2, count, 4), (2, count, 4)]


def torchvision_pair(num_classes: int = 20) -> tuple[Any, SSD]:
    """torchvision's model with random weights, and ours with the same."""
    torch.manual_seed(1)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_classes + 1).eval()
    # Fresh weights give scores of exactly 1; with smaller ones no two are equal, and the order is unique.
    for parameter in theirs.head.classification_head.parameters():
        parameter.data *= 0.1
    ours = SSD(ModelConfig(), 300, num_classes, BoxesConfig(), DetectConfig()).eval()
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    return theirs, ours


def test_torchvisions_weights_give_its_raw_outputs_and_its_detections() -> None:
    theirs, ours = torchvision_pair()
    image = np.random.default_rng(0).integers(0, 256, (417, 363, 3)).astype(np.uint8)
    chw = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    options = deploy.Preprocessing(300, MEAN, STD, antialias=False).__dict__
    x = torch.from_numpy(deploy.preprocess([image], options)["image"])
    with torch.inference_mode():
        images, _ = theirs.transform([chw])
        torch.testing.assert_close(x, images.tensors, atol=1e-2, rtol=1e-5)  # pixels of 0..255
        features = list(theirs.backbone(images.tensors).values())
        expected_raw = theirs.head(features)
        codes, logits = ours.raw(images.tensors)
        expected = theirs([chw])[0]
        outputs = dict(zip(("boxes", "scores", "labels", "num_detections"), ours(x), strict=True))
    torch.testing.assert_close(codes, expected_raw["bbox_regression"], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, expected_raw["cls_logits"], atol=1e-5, rtol=0)
    arrays = {name: value.numpy() for name, value in outputs.items()}
    (found,) = deploy.postprocess(arrays, [str(i) for i in range(20)], [image], options)
    assert len(found.scores_K) == len(expected["scores"]) == 200
    np.testing.assert_allclose(found.scores_K, expected["scores"].numpy(), atol=1e-5)
    # Two scores that differ in the last digit may change places; the detections are the same ones.
    labels, boxes, scores = (expected[name].numpy() for name in ("labels", "boxes", "scores"))
    ours_K, theirs_K = pairs(found.boxes_K4, found.classes_K + 1, boxes, labels, 0.999)
    assert len(ours_K) == 200
    np.testing.assert_allclose(found.scores_K[ours_K], scores[theirs_K], atol=1e-5)
    np.testing.assert_allclose(found.boxes_K4[ours_K], boxes[theirs_K], atol=0.02)


def test_another_models_weights_are_refused() -> None:
    with pytest.raises(ArtifactError, match="not a state dict of torchvision's ssd300_vgg16"):
        from_torchvision({"backbone.body.conv1.weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match="no published detector 'ssdlite'"):
        published("ssdlite")


@pytest.mark.parametrize("norm", [False, True])
def test_torchvisions_vgg_features_load(norm: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(OrderedDict(features=make_layers(cfgs["D"], batch_norm=norm))).eval()
    ours = VggFeatures(64, norm=norm).eval()
    ours.load_state_dict(ours.state_dict() | from_torchvision_features(theirs.state_dict(), norm=norm))
    x = torch.randn(1, 3, 64, 64)
    end = 33 if norm else 23  # behind conv4_3's activation
    with torch.inference_mode():
        expected = nn.functional.normalize(theirs[0][:end](x)) * 20
        torch.testing.assert_close(ours(x)[0], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ArtifactError, match="do not fit the model"):
        from_torchvision_features({"features.0.weight": torch.zeros(1)}, norm=norm)


def test_frozen_layers_keep_weights_and_statistics() -> None:
    model = detector("resnet18")
    model.freeze(r"^(conv1|bn1|layer1)")
    names = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert names == {"conv1", "bn1", "layer1"}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    codes, logits = model(torch.randn(4, 3, 64, 64))
    (codes.sum() + logits.sum()).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1).step()
    changed = {name.split(".")[1] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed & {"conv1", "bn1", "layer1"} == set()
    assert {"layer2", "layer4", "extras"} <= changed


def test_sagemakers_pattern_freezes_vggs_first_layers() -> None:
    with torch.device("meta"):
        model = detector("vgg16")
    model.freeze(r"^(conv1_|conv2_).*")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert len(frozen) == 8
    for pattern in ("^nothing", ".*"):
        with pytest.raises(ConfigError, match=r"freeze_layer_pattern fits (no|every) parameter"):
            model.freeze(pattern)


def test_host_and_graph_suppression_find_the_same() -> None:
    rng = np.random.default_rng(3)
    corners = np.sort(rng.random((2, 500, 2, 2)), axis=2).reshape(2, 500, 4).astype(np.float32)
    scores = (rng.random((2, 500, 4)) ** 3).astype(np.float32)
    for candidates, most in itertools.product((500, 37), (200, 11)):
        config = DetectConfig(candidates=candidates, max_detections=most)
        graph = suppress(torch.from_numpy(corners), torch.from_numpy(scores), config)
        in_graph = dict(zip(("boxes", "scores", "labels", "num_detections"), (x.numpy() for x in graph), strict=True))
        options = deploy.Preprocessing(64, MEAN, STD, nms="host", candidates=candidates, max_detections=most).__dict__
        on_host = {"boxes": corners, "scores": scores}
        images = [np.zeros((100, 200, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)]
        labels = list("abcd")
        pairs = zip(
            deploy.postprocess(in_graph, labels, images, options),
            deploy.postprocess(on_host, labels, images, options),
            strict=True,
        )
        for expected, actual in pairs:
            np.testing.assert_array_equal(expected.classes_K, actual.classes_K)
            np.testing.assert_array_equal(expected.boxes_K4, actual.boxes_K4)
            np.testing.assert_array_equal(expected.scores_K, actual.scores_K)
            assert 0 < len(actual.scores_K) <= most


@pytest.mark.parametrize("nms", ["graph", "host"])
def test_export_has_few_operators_and_any_batch(nms: str, tmp_path: Path) -> None:
    import onnx

    from lab.export.onnx_export import export_onnx
    from lab.runtime.onnx_runner import OnnxRunner

    model = detector("resnet18", detect=DetectConfig(nms=nms))  # type: ignore[arg-type]
    signature = deploy.signature(64, 3, nms=nms, num_boxes=len(model.defaults_A4))
    path = export_onnx(model, signature, tmp_path / "m.onnx", opset=18)
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert ("NmsKeep" in operators) == (nms == "graph")
    assert operators & {"NonZero", "Loop", "If", "ScatterND", "NonMaxSuppression", "Mod"} == set()
    runner = OnnxRunner(path, num_threads=1, signature=signature)
    for batch in (1, 3):
        feed = signature.example_inputs({"batch": batch}, seed=batch)
        with torch.inference_mode():
            outputs = model(torch.from_numpy(feed["image"]))
        expected = {spec.name: out.numpy() for spec, out in zip(signature.outputs, outputs, strict=True)}
        actual = runner.run(feed)
        assert deploy.agreement(expected, actual) == 1.0
        left, right = deploy.aligned(expected, actual)
        for name in left:
            np.testing.assert_allclose(left[name], right[name], atol=1e-4)
