"""Types of the fields that the control plane reads, as in botocore's service model `sagemaker/2017-07-24`.

AWS's clients check them before they send; whoever writes the JSON by hand is told here. Fields that are not listed are
told back and otherwise ignored.
"""

from __future__ import annotations

import math
from typing import Any

from lab.serve.control_records import ControlError, Json

TEXT, INTEGER, NUMBER, FLAG, TEXTS = "a text", "an integer", "a number", "true or false", "an object of texts"
ANY_OBJECT = "an object"
MAX_TEXT = 2048

_CONTAINER: Json = {
    "Image": TEXT, "ModelDataUrl": TEXT, "ModelDataSource": {"S3DataSource": {"S3Uri": TEXT}}, "Environment": TEXTS,
}  # fmt: skip
_VARIANT: Json = {
    "VariantName": TEXT, "ModelName": TEXT, "InitialInstanceCount": INTEGER, "InitialVariantWeight": NUMBER,
    "ServerlessConfig": ANY_OBJECT,
}  # fmt: skip
_SIZE: Json = {"Type": TEXT, "Value": INTEGER}
_DEPLOYMENT: Json = {
    "BlueGreenUpdatePolicy": {
        "TrafficRoutingConfiguration": {
            "Type": TEXT, "WaitIntervalInSeconds": INTEGER, "CanarySize": _SIZE, "LinearStepSize": _SIZE,
        },
        "TerminationWaitInSeconds": INTEGER, "MaximumExecutionTimeoutInSeconds": INTEGER,
    },
    "RollingUpdatePolicy": {
        "MaximumBatchSize": _SIZE, "WaitIntervalInSeconds": INTEGER, "MaximumExecutionTimeoutInSeconds": INTEGER,
        "RollbackMaximumBatchSize": _SIZE,
    },
    "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": TEXT}]},
}  # fmt: skip
_FIELDS: Json = {
    "ModelName": TEXT, "EndpointConfigName": TEXT, "EndpointName": TEXT,
    "PrimaryContainer": _CONTAINER, "Containers": [_CONTAINER],
    "ProductionVariants": [_VARIANT], "ShadowProductionVariants": [_VARIANT],
    "DesiredWeightsAndCapacities": [{"VariantName": TEXT, "DesiredWeight": NUMBER, "DesiredInstanceCount": INTEGER}],
    "DeploymentConfig": _DEPLOYMENT, "RetainAllVariantProperties": FLAG,
    "ExcludeRetainedVariantProperties": [{"VariantPropertyType": TEXT}],
    "NameContains": TEXT, "StatusEquals": TEXT, "SortBy": TEXT, "SortOrder": TEXT, "NextToken": TEXT,
    "MaxResults": INTEGER,
}  # fmt: skip
"""Of all operations together: no name means two things."""


def check_fields(given: Json) -> Json:
    """The arguments without fields that are null, which are as if absent. Raises ControlError on another type."""
    checked: Json = _checked(given, _FIELDS, "")
    return checked


def _checked(value: Any, wanted: Any, where: str) -> Any:
    if isinstance(wanted, list):
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        return [_checked(item, wanted[0], f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            raise _wrong(where, value, ANY_OBJECT)
        there = {key: item for key, item in value.items() if item is not None}
        return {
            key: _checked(item, wanted[key], f"{where}.{key}".lstrip(".")) if key in wanted else item
            for key, item in there.items()
        }
    if not _is(value, wanted):
        raise _wrong(where, value, wanted)
    return value


def _is(value: Any, wanted: str) -> bool:
    if wanted == TEXT:
        return isinstance(value, str) and len(value) <= MAX_TEXT
    if wanted == FLAG:
        return isinstance(value, bool)
    if wanted in (INTEGER, NUMBER):
        number = isinstance(value, int if wanted == INTEGER else int | float) and not isinstance(value, bool)
        return number and math.isfinite(value) and abs(value) < 1e9
    if not isinstance(value, dict):
        return False
    return wanted == ANY_OBJECT or all(isinstance(item, str) for item in value.values())


def _wrong(where: str, value: Any, wanted: str) -> ControlError:
    return ControlError(f"{where} must be {wanted}, got {str(value)[:80]!r}")
