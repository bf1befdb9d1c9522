"""The control plane's models and endpoint configurations: records, checked when they are made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.core.errors import LabError
from lab.serve.config import MAX_STEPS, EndpointConfig, VariantConfig
from lab.serve.control_records import (
    ControlError,
    Json,
    arn,
    data_url,
    folders_of_uris,
    known_name,
    new_name,
    overrides,
    validated,
)
from lab.serve.models import folder_of_url

_REFUSED = ("AsyncInferenceConfig", "ExplainerConfig")
MAX_VARIANTS = 10


class Catalog:
    """What CreateModel and CreateEndpointConfig made."""

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        self.models: dict[str, Json] = {}
        self.configs: dict[str, Json] = {}

    def adopt(self, config: EndpointConfig, folders: Mapping[str, Sequence[Path]]) -> None:
        """Make the configuration file's models known, as if they had been created by calls."""
        now = time.time()
        variants: list[Json] = []
        shadows: list[Json] = []
        for variant in config.variants:
            model = f"{config.endpoint}-{variant.name}"[:63]
            containers = [{"ModelDataUrl": folder.resolve().as_uri()} for folder in folders[variant.name]]
            if variant.remote is not None:
                containers = [{"ModelDataUrl": variant.remote.url}]
            shown = {"Containers": containers} if variant.steps else {"PrimaryContainer": containers[0]}
            self.models[model] = {"ModelName": model, "CreationTime": now, "_config": variant, **shown}
            entry = {"VariantName": variant.name, "ModelName": model, "InitialVariantWeight": variant.weight,
                     "InitialInstanceCount": 1}  # fmt: skip
            (shadows if variant.shadow else variants).append(entry)
        name = config.endpoint
        self.configs[name] = {"EndpointConfigName": name, "CreationTime": now, "ProductionVariants": variants}
        self.configs[name] |= {"ShadowProductionVariants": shadows} if shadows else {}

    def create_model(self, given: Json) -> Json:
        name = new_name(given, "ModelName", self.models, "model")
        primary = given.get("PrimaryContainer")
        containers = [primary] if primary else given.get("Containers") or []
        if not isinstance(containers, list) or not 1 <= len(containers) <= MAX_STEPS:
            raise ControlError(f"PrimaryContainer, or Containers with 1 to {MAX_STEPS} in sequence, is needed")
        folders = tuple(folder_of_url(data_url(container), self._config.security) for container in containers)
        changed: Json = {}
        for container in containers:  # one process runs all steps: what one of them sets holds for the whole
            changed |= overrides(container.get("Environment") or {})
        validated({"name": "x", **_models(folders), **changed})
        self.models[name] = {**given, "CreationTime": time.time(), "_folders": folders, "_overrides": changed}
        return {"ModelArn": arn("model", name)}

    def describe_model(self, given: Json) -> Json:
        name, model = known_name(given, "ModelName", self.models, "model")
        shown = {key: value for key, value in model.items() if not key.startswith("_") and key != "Tags"}
        return {**shown, "ModelArn": arn("model", name), "EnableNetworkIsolation": True}

    def delete_model(self, given: Json) -> None:
        name, _ = known_name(given, "ModelName", self.models, "model")
        del self.models[name]

    def create_config(self, given: Json) -> Json:
        name = new_name(given, "EndpointConfigName", self.configs, "endpoint configuration")
        for key in _REFUSED:
            if given.get(key):
                raise ControlError(f"{key} is not supported here")
        production, shadows = given.get("ProductionVariants") or [], given.get("ShadowProductionVariants") or []
        if not 1 <= len(production) <= MAX_VARIANTS:
            raise ControlError(f"ProductionVariants must be 1 to {MAX_VARIANTS}, got {len(production)}")
        if shadows and (len(production) != 1 or len(shadows) != 1):
            raise ControlError("with ShadowProductionVariants there is exactly one production and one shadow variant")
        names = [variant.get("VariantName") for variant in (*production, *shadows)]
        if len(set(names)) != len(names):
            raise ControlError("two variants have the same VariantName")
        self.configs[name] = {**given, "CreationTime": time.time()}
        try:
            self.variants(name)
        except (ControlError, LabError):
            del self.configs[name]
            raise
        return {"EndpointConfigArn": arn("endpoint-config", name)}

    def describe_config(self, given: Json) -> Json:
        name, config = known_name(given, "EndpointConfigName", self.configs, "endpoint configuration")
        shown = {key: value for key, value in config.items() if key != "Tags"}
        return {**shown, "EndpointConfigArn": arn("endpoint-config", name)}

    def delete_config(self, given: Json) -> None:
        name, _ = known_name(given, "EndpointConfigName", self.configs, "endpoint configuration")
        del self.configs[name]

    def variants(self, config_name: str) -> list[tuple[VariantConfig, Path | tuple[Path, ...]]]:
        """The variants of a configuration, shadows last. Raises ControlError."""
        config = self.configs[config_name]
        sides = [(v, False) for v in config["ProductionVariants"]]
        sides += [(v, True) for v in config.get("ShadowProductionVariants") or []]
        found = []
        for given, shadow in sides:
            _, model = known_name(given, "ModelName", self.models, "model")
            if given.get("ServerlessConfig"):
                raise ControlError("ServerlessConfig is not supported here")
            weight = given.get("InitialVariantWeight", 1.0)
            base: Json = model.get("_overrides") or {}
            if "_config" in model:
                left_out = {"name", "model", "weight", "shadow"}
                given_steps = model["_config"].steps
                base = model["_config"].model_dump(exclude=left_out if given_steps else left_out | {"steps"})
            folders = model.get("_folders") or folders_of_uris(model)
            fields = {
                **({} if base.get("remote") else _models(folders)),
                **base,
                "name": given.get("VariantName"),
                "weight": weight,
                "shadow": shadow,
            }
            found.append((validated(fields), folders if len(folders) > 1 else folders[0]))
        return found


def _models(folders: Sequence[Path]) -> Json:
    """A variant's fields: one model, or the steps of a pipeline."""
    return {"model": str(folders[0])} if len(folders) == 1 else {"steps": [str(folder) for folder in folders]}
