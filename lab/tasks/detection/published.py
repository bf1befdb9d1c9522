"""torchvision's `ssd300_vgg16` under this task's parameter names.

| torchvision | here |
|---|---|
| backbone.scale_weight | backbone.conv4_3_scale |
| backbone.features.<place> | backbone.conv1_1 ... conv4_3; places 0, 2, 5, 7, 10, 12, 14, 17, 19, 21 |
| backbone.extra.0.<1, 3, 5> | backbone.conv5_1 ... conv5_3 |
| backbone.extra.0.7.<1, 3> | backbone.fc6, backbone.fc7 |
| backbone.extra.<n>.<0, 2>, n = 1 ... 4 | backbone.extras.<n - 1>.reduce, expand |
| head.classification_head.module_list.<n> | heads.classes.<n> |
| head.regression_head.module_list.<n> | heads.codes.<n> |

Its classes count the background as 0, as here inside of the network; it wants images resized without antialiasing to
300 x 300 (`image.antialias: false`), mean (0.48235, 0.45882, 0.40784) and std 1/255.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lab.core.errors import ArtifactError, ConfigError
from lab.nn.backbones import published_weights
from lab.tasks.detection.models.vgg import CONVOLUTIONS, feature_places

NAMES = ("ssd300_vgg16",)
MEAN, STD = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)


def published(name: str) -> dict[str, Tensor]:
    """The published weights of torchvision's detector `name` (COCO, 90 classes) under this task's names.

    Raises:
        ConfigError: no such detector.
        ArtifactError: the weights cannot be had.
    """
    if name not in NAMES:
        known = ", ".join(f"torchvision/{known}" for known in NAMES)
        raise ConfigError(f"there is no published detector '{name}'", expected=known)
    return from_torchvision(published_weights(name, "COCO_V1"))


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchvision's `ssd300_vgg16` by this file's table. Raises ArtifactError for an unknown name."""
    modules = module_names()
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        module, _, leaf = name.rpartition(".")
        if name == "backbone.scale_weight":
            renamed["backbone.conv4_3_scale"] = value
        elif module in modules:
            renamed[f"{modules[module]}.{leaf}"] = value
        else:
            raise ArtifactError("not a state dict of torchvision's ssd300_vgg16", got=name)
    return renamed


def module_names() -> dict[str, str]:
    """torchvision's module -> this task's, for every convolution."""
    places = dict(zip(CONVOLUTIONS, feature_places(norm=False), strict=True))
    names = {f"backbone.features.{place}": f"backbone.conv{n}" for n, place in places.items() if n[0] != "5"}
    names |= {f"backbone.extra.0.{2 * number - 1}": f"backbone.conv5_{number}" for number in (1, 2, 3)}
    names |= {"backbone.extra.0.7.1": "backbone.fc6", "backbone.extra.0.7.3": "backbone.fc7"}
    for number in range(4):
        names[f"backbone.extra.{number + 1}.0"] = f"backbone.extras.{number}.reduce"
        names[f"backbone.extra.{number + 1}.2"] = f"backbone.extras.{number}.expand"
    for number in range(6):
        names[f"head.classification_head.module_list.{number}"] = f"heads.classes.{number}"
        names[f"head.regression_head.module_list.{number}"] = f"heads.codes.{number}"
    return names
