"""Feature pyramids, one family per file, and the detector on top of them (`ssd.py`).

Each entry is `build(config, size) -> FeatureMaps`. Parameter names, for `model.freeze_layer_pattern` (where "backbone."
may be left out): vgg16 backbone.conv1_1 ... conv5_3, fc6, fc7; resnets backbone.conv1, bn1, layer1 ... layer4; all of
them backbone.extras.0 ..., heads.classes.0 ..., heads.codes.0 ...
"""

from lab.core.tables import LazyTable

VGGS = ("vgg16", "vgg16_bn")
RESNETS = ("resnet18", "resnet34", "resnet50")

MODELS = LazyTable(
    "model",
    dict.fromkeys(VGGS, "lab.tasks.detection.models.vgg:build")
    | dict.fromkeys(RESNETS, "lab.tasks.detection.models.resnet:build"),
)
