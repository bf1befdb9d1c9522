"""Networks: torchvision's weights give torchvision's outputs; pooling, skips, frozen backbones, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lab.core.errors import ConfigError
from lab.export.onnx_export import export_onnx
from lab.tasks.segmentation import deploy, learn
from lab.tasks.segmentation.config import ModelConfig
from lab.tasks.segmentation.models import HEADS
from lab.tasks.segmentation.models.pspnet import average_pool
from lab.tasks.segmentation.network import PUBLISHED, SegmentationNetwork, build_network, from_torchvision, key_map
from tests.tasks.segmentation.conftest import MakeTask
from tests.tasks.segmentation.tiny import settle


def reference(name: str, num_classes: int = 21) -> nn.Module:
    """torchvision's model with random weights and BatchNorm statistics."""
    torch.manual_seed(1)
    make = getattr(torchvision.models.segmentation, name)
    model: nn.Module = make(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=True)
    return settle(model)


def network(num_classes: int = 5, **options: Any) -> SegmentationNetwork:
    return build_network(ModelConfig(**({"backbone": "resnet18"} | options)), num_classes, seed=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvisions_weights_give_torchvisions_outputs(name: str) -> None:
    theirs = reference(name)
    head, backbone = name.split("_")
    ours = network(21, name=head, backbone=backbone).eval()
    ours.load_state_dict(from_torchvision(name, theirs.state_dict()))
    image = torch.randn(2, 3, 73, 49)
    with torch.inference_mode():
        expected, actual = theirs(image), ours.raw(image)
        assert torch.equal(ours(image), actual["out"])
    for output in ("out", "aux"):
        assert expected[output].abs().max() > 0.1  # else everything would be close to everything
        torch.testing.assert_close(actual[output], expected[output], rtol=1e-5, atol=1e-5)


def test_the_key_map_covers_every_tensor() -> None:
    for name in PUBLISHED[::2]:
        assert len(set(key_map(name).values())) == len(key_map(name))
        head, backbone = name.split("_")
        with torch.device("meta"):
            theirs = getattr(torchvision.models.segmentation, name)(weights=None, weights_backbone=None, aux_loss=True)
            ours = SegmentationNetwork(ModelConfig(name=head, backbone=backbone), 21)
        assert set(from_torchvision(name, theirs.state_dict())) == set(ours.state_dict())
    with pytest.raises(ConfigError, match=r"has no tensor 'classifier\.9\.weight'"):
        from_torchvision("fcn_resnet50", {"classifier.9.weight": torch.zeros(1)})


def test_published_models_start_a_run(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    state = reference("fcn_resnet50").state_dict()
    monkeypatch.setattr(learn, "published_weights", lambda name: state)
    task = make_task(model={"backbone": "resnet50", "skips": [], "refine_channels": 0})
    weights = task.published("fcn_resnet50")
    assert set(weights) == set(task.build_model().state_dict())
    alone = make_task(model={"backbone": "resnet50", "skips": [], "refine_channels": 0, "auxiliary": False})
    assert set(alone.published("fcn_resnet50")) == set(alone.build_model().state_dict())
    with pytest.raises(ConfigError, match="does not fit the configured model"):
        task.published("deeplabv3_resnet50")
    with pytest.raises(ConfigError, match="is not known"):
        task.published("lraspp_mobilenet_v3_large")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3, 6]))
def test_average_pooling_equals_torchs(height: int, width: int, num_bins: int) -> None:
    x = torch.randn(2, 3, height, width)
    torch.testing.assert_close(average_pool(x, num_bins), nn.AdaptiveAvgPool2d(num_bins)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_outputs_have_the_inputs_size(name: str, output_stride: int) -> None:
    model = network(name=name, output_stride=output_stride)
    image = torch.randn(2, 3, 41, 57)
    scores, auxiliary = model.train()(image)
    assert scores.shape == auxiliary.shape == (2, 5, 41, 57)
    assert model.eval()(image).shape == (2, 5, 41, 57)
    strides = model.backbone.strides
    assert strides["layer4"] == output_stride


def test_without_an_auxiliary_head() -> None:
    model = network(auxiliary=False).train()
    assert len(model(torch.randn(2, 3, 32, 32))) == 1
    assert set(model.raw(torch.randn(2, 3, 32, 32))) == {"out"}
    assert not [name for name in model.state_dict() if name.startswith("auxiliary")]


def test_skips_start_as_the_net_without_them() -> None:
    plain, skipping = network(output_stride=32).eval(), network(output_stride=32, skips=("layer1", "layer2")).eval()
    missing = skipping.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[1] for name in missing.missing_keys} == {"layer1", "layer2"}
    image = torch.randn(1, 3, 64, 64)
    # Upsampling in three steps rather than one moves outlines a little; the middle of flat parts stays.
    assert (plain(image) - skipping(image)).abs().mean() < 0.1 * plain(image).abs().mean()


def test_a_frozen_backbone_neither_learns_nor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.nn.backbones.ResNetFeatures.load_published", lambda self, name: None)
    model = network(pretrained=True, freeze_backbone=True).train()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    sum(output.sum() for output in model(torch.rand(2, 3, 33, 35))).backward()
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert model.head.training
    assert not model.backbone.training


def test_initial_weights_depend_on_the_seed() -> None:
    def first(seed: int) -> Tensor:
        return build_network(ModelConfig(backbone="resnet18"), 3, seed).head.classify.weight  # type: ignore[union-attr, return-value]

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize("name", HEADS)
def test_the_exported_graph_needs_few_operators(name: str, tmp_path: Path) -> None:
    model = network(name=name, refine_channels=4 if name == "fcn" else 0, skips=("layer2",) if name == "fcn" else ())
    path = export_onnx(model.eval(), deploy.signature(40, 5), tmp_path / "m.onnx", opset=18)
    graph = onnx.load(path).graph
    known = {
        "Conv",
        "Relu",
        "MaxPool",
        "Resize",
        "MatMul",
        "ReduceMean",
        "Concat",
        "Add",
        "BatchNormalization",
        "Shape",
    }
    assert {node.op_type for node in graph.node} <= known
    assert [dim.dim_param or dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim] == [
        "batch",
        5,
        40,
        40,
    ]


def test_table_is_the_folder(repo: Path) -> None:
    folder = repo / "lab" / "tasks" / "segmentation" / "models"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert {entry.partition(":")[0].rpartition(".")[2] for entry in HEADS.entries.values()} == files
    assert set(HEADS) == set(ModelConfig.model_fields["name"].annotation.__args__)  # type: ignore[union-attr]
