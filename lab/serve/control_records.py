"""What the control plane keeps, and how it reads the fields it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from lab.serve.config import VariantConfig

Json = dict[str, Any]
ARN = "arn:aws:sagemaker:local:000000000000:{kind}/{name}"
_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_ENVIRONMENT = {
    "LAB_EXECUTOR_THREADS": "executor_threads", "LAB_RUNTIME_THREADS": "runtime_threads", "LAB_MAX_BATCH": "max_batch",
    "LAB_MAX_QUEUE": "max_queue", "LAB_DEADLINE_MS": "deadline_ms", "LAB_MAX_DELAY_US": "max_delay_us",
    "LAB_ENGINE": "engine", "LAB_NON_FINITE": "non_finite",
}  # fmt: skip

_FAULTS = {"LAB_FAULT_ERROR_RATE": "error_rate", "LAB_FAULT_LATENCY_MS": "latency_ms"}


class ControlError(Exception):
    """An answer with an error's name, as AWS's clients parse it."""

    def __init__(self, message: str, name: str = "ValidationException", status: int = 400) -> None:
        self.name, self.status = name, status
        super().__init__(message)


@dataclass
class EndpointRecord:
    """An endpoint as the control plane knows it."""

    name: str
    config_name: str
    created_s: float
    modified_s: float
    status: str = "Creating"
    failure: str = ""
    desired: dict[str, float] = field(default_factory=dict)
    instances: dict[str, int] = field(default_factory=dict)


def arn(kind: str, name: str) -> str:
    return ARN.format(kind=kind, name=name)


def new_name(given: Json, key: str, taken: Mapping[str, Any], what: str) -> str:
    """Raises ControlError on a name that cannot be one, or is taken."""
    name = given.get(key)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ControlError(f"{key} {str(name)[:80]!r} must match {_NAME.pattern}")
    if name in taken:
        raise ControlError(f"Cannot create already existing {what} {name!r}")
    return name


def known_name(given: Json, key: str, there: Mapping[str, Any], what: str) -> tuple[str, Any]:
    """The name and what it names. Raises ControlError."""
    name = given.get(key)
    if not isinstance(name, str) or name not in there:
        raise ControlError(f"Could not find {what} {str(name)[:80]!r}")
    return name, there[name]


def data_url(container: Json) -> str:
    """Where a container's model lies. Raises ControlError where it names none."""
    if not isinstance(container, dict):
        raise ControlError("a container must be an object")
    source = (container.get("ModelDataSource") or {}).get("S3DataSource") or {}
    url = container.get("ModelDataUrl") or source.get("S3Uri")
    if not isinstance(url, str) or not url:
        raise ControlError("ModelDataUrl is needed: the path of a bundle or an ONNX export")
    return url


def folders_of_uris(model: Json) -> tuple[Path, ...]:
    """Of a model that the configuration file named."""
    containers = model.get("Containers") or [model["PrimaryContainer"]]
    return tuple(Path(unquote(urlsplit(container["ModelDataUrl"]).path)) for container in containers)


def overrides(environment: Mapping[str, Any]) -> Json:
    """Fields of a variant out of a container's Environment; other variables are the container's own affair."""
    fields = {_ENVIRONMENT[name]: value for name, value in environment.items() if name in _ENVIRONMENT}
    faults = {_FAULTS[name]: value for name, value in environment.items() if name in _FAULTS}
    return fields | ({"faults": faults} if faults else {})


def validated(fields: Json) -> VariantConfig:
    """Raises ControlError on a value that a variant cannot have."""
    try:
        return VariantConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ControlError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
