"""The control plane's models and endpoint configurations: records, checked when they are made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from lab.core.errors import LabError
from lab.serve.config import EndpointConfig, VariantConfig
from lab.serve.control_records import (
    ControlError,
    Json,
    arn,
    data_url,
    folder_of_uri,
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

    def adopt(self, config: EndpointConfig, folders: Mapping[str, Path]) -> None:
        """Make the configuration file's models known, as if they had been created by calls."""
        now = time.time()
        variants: list[Json] = []
        shadows: list[Json] = []
        for variant in config.variants:
            model = f"{config.endpoint}-{variant.name}"[:63]
            url = folders[variant.name].resolve().as_uri()
            self.models[model] = {"ModelName": model, "CreationTime": now, "_config": variant,
                                  "PrimaryContainer": {"ModelDataUrl": url}}  # fmt: skip
            entry = {"VariantName": variant.name, "ModelName": model, "InitialVariantWeight": variant.weight,
                     "InitialInstanceCount": 1}  # fmt: skip
            (shadows if variant.shadow else variants).append(entry)
        name = config.endpoint
        self.configs[name] = {"EndpointConfigName": name, "CreationTime": now, "ProductionVariants": variants}
        self.configs[name] |= {"ShadowProductionVariants": shadows} if shadows else {}

    def create_model(self, given: Json) -> Json:
        name = new_name(given, "ModelName", self.models, "model")
        containers = given.get("Containers") or []
        container = given.get("PrimaryContainer") or (containers[0] if len(containers) == 1 else None)
        if container is None:
            raise ControlError(
                "one container is needed: PrimaryContainer, or Containers with one (pipelines are not served)"
            )
        folder = folder_of_url(data_url(container), self._config.security)
        changed = overrides(container.get("Environment") or {})
        validated({"name": "x", "model": str(folder), **changed})
        self.models[name] = {**given, "CreationTime": time.time(), "_folder": folder, "_overrides": changed}
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

    def variants(self, config_name: str) -> list[tuple[VariantConfig, Path]]:
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
                base = model["_config"].model_dump(exclude={"name", "model", "weight", "shadow"})
            folder = model.get("_folder") or folder_of_uri(model)
            fields = {
                **base,
                "name": given.get("VariantName"),
                "model": str(folder),
                "weight": weight,
                "shadow": shadow,
            }
            found.append((validated(fields), folder))
        return found
