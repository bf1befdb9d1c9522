"""A subset of SageMaker's control plane (JSON 1.1): models, endpoint configurations, endpoints.

Source: botocore's service model `sagemaker/2017-07-24`. Instances, images, roles and networks are told back as given
and mean nothing here; what would change what is served, and is not supported, is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lab.core.errors import LabError
from lab.core.progress import warn
from lab.serve.config import EndpointConfig, VariantConfig
from lab.serve.control_catalog import Catalog
from lab.serve.control_fields import check_fields
from lab.serve.control_records import ControlError, EndpointRecord, Json, arn, known_name, new_name
from lab.serve.guard.config import GuardConfig, RolloutConfig
from lab.serve.guard.deployment import rollout_of
from lab.serve.table import describe_error

Variants = list[tuple[VariantConfig, Path | tuple[Path, ...]]]


class Deployments(Protocol):
    """What the supervisor does for the control plane; each raises LabError where it cannot."""

    async def deploy(self, name: str, variants: Variants) -> None:
        """Put an endpoint in service, or exchange its variants at once."""
        ...

    async def shift(self, name: str, variants: Variants, plan: RolloutConfig) -> str:
        """Exchange the variants step by step; why it was rolled back, or nothing."""
        ...

    async def remove(self, name: str) -> None: ...

    def set_weights(self, name: str, weights: Mapping[str, float]) -> None: ...

    def weights(self, name: str) -> Mapping[str, float]:
        """Those in force."""
        ...


class ControlPlane:
    """Keeps records, and asks for deployments in the background."""

    def __init__(self, config: EndpointConfig, deployments: Deployments) -> None:
        self._config, self._deployments = config, deployments
        self.catalog = Catalog(config)
        self.endpoints: dict[str, EndpointRecord] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        c = self.catalog
        self._operations: dict[str, Callable[[Json], Json | None]] = {
            "CreateModel": c.create_model, "DescribeModel": c.describe_model, "DeleteModel": c.delete_model,
            "CreateEndpointConfig": c.create_config, "DescribeEndpointConfig": c.describe_config,
            "DeleteEndpointConfig": c.delete_config, "CreateEndpoint": self._create_endpoint,
            "DescribeEndpoint": self._describe_endpoint, "ListEndpoints": self._list_endpoints,
            "UpdateEndpoint": self._update_endpoint, "DeleteEndpoint": self._delete_endpoint,
            "UpdateEndpointWeightsAndCapacities": self._update_weights,
        }  # fmt: skip

    def call(self, operation: str, arguments: Json) -> tuple[int, Json | None]:
        """One operation: status and body."""
        handler = self._operations.get(operation)
        try:
            if handler is None:
                raise ControlError(f"{operation} is not supported here", "UnknownOperationException", 404)
            return 200, handler(check_fields(arguments))
        except ControlError as error:
            return error.status, {"__type": error.name, "message": str(error)}
        except LabError as error:
            return 400, {"__type": "ValidationException", "message": describe_error(error)}

    def adopt(self, config: EndpointConfig, folders: Mapping[str, Sequence[Path]]) -> None:
        """Make the configuration file's endpoint known, as if it had been created by calls."""
        self.catalog.adopt(config, folders)
        record = EndpointRecord(config.endpoint, config.endpoint, time.time(), time.time(), "InService")
        record.desired = {v.name: v.weight for v in config.variants}
        self.endpoints[config.endpoint] = record

    def _create_endpoint(self, given: Json) -> Json:
        name = new_name(given, "EndpointName", self.endpoints, "endpoint")
        config_name, _ = known_name(given, "EndpointConfigName", self.catalog.configs, "endpoint configuration")
        now = time.time()
        record = EndpointRecord(name, config_name, now, now)
        self._start(record, config_name, RolloutConfig(kind="all_at_once"), {})
        self.endpoints[name] = record
        return {"EndpointArn": arn("endpoint", name)}

    def _update_endpoint(self, given: Json) -> Json:
        record = self._in_service(given)
        config_name, _ = known_name(given, "EndpointConfigName", self.catalog.configs, "endpoint configuration")
        guardrails = (self._config.guard or GuardConfig()).guardrails()
        plan = rollout_of(given.get("DeploymentConfig") or {}, guardrails)
        keep = bool(given.get("RetainAllVariantProperties"))
        excluded = {entry.get("VariantPropertyType") for entry in given.get("ExcludeRetainedVariantProperties") or []}
        retain = keep and "DesiredWeight" not in excluded
        retained = dict(self._deployments.weights(record.name)) if retain else {}
        self._start(record, config_name, plan, retained)
        record.status = "Updating"
        return {"EndpointArn": arn("endpoint", record.name)}

    def _start(
        self, record: EndpointRecord, config_name: str, plan: RolloutConfig, retained: Mapping[str, float]
    ) -> None:
        variants = self.catalog.variants(config_name)
        variants = [(v.model_copy(update={"weight": retained.get(v.name, v.weight)}), f) for v, f in variants]
        self._spawn(self._deploying(record, config_name, variants, plan))

    async def _deploying(
        self, record: EndpointRecord, config_name: str, variants: Variants, plan: RolloutConfig
    ) -> None:
        updating = record.status == "Updating"
        try:
            if updating and plan.kind != "all_at_once":
                failure = await self._deployments.shift(record.name, variants, plan)
            else:
                await self._deployments.deploy(record.name, variants)
                failure = ""
        except (LabError, TimeoutError) as error:
            failure = describe_error(error) if isinstance(error, LabError) else "loading took too long"
        record.modified_s, record.failure = time.time(), failure
        if failure:
            warn(f"endpoint {record.name}: {failure}")
            # What was served before an update goes on being served.
            record.status = "InService" if updating else "Failed"
            return
        config = self.catalog.configs.get(config_name, {})  # it may have been deleted meanwhile
        record.status, record.config_name = "InService", config_name
        production = config.get("ProductionVariants", ())
        record.instances = {v["VariantName"]: int(v.get("InitialInstanceCount", 1)) for v in production}
        record.desired = {variant.name: variant.weight for variant, _ in variants}

    def _update_weights(self, given: Json) -> Json:
        record = self._in_service(given)
        wanted = given.get("DesiredWeightsAndCapacities") or []
        weights = {v.get("VariantName"): v["DesiredWeight"] for v in wanted if v.get("DesiredWeight") is not None}
        unknown = [v.get("VariantName") for v in wanted if v.get("VariantName") not in record.desired]
        if unknown or not wanted:
            raise ControlError(f"unknown variants {unknown}, expected {sorted(record.desired)}")
        self._deployments.set_weights(record.name, weights)
        record.desired |= weights
        record.instances |= {v["VariantName"]: v["DesiredInstanceCount"] for v in wanted if "DesiredInstanceCount" in v}
        record.modified_s = time.time()
        return {"EndpointArn": arn("endpoint", record.name)}

    def _describe_endpoint(self, given: Json) -> Json:
        _, record = known_name(given, "EndpointName", self.endpoints, "endpoint")
        answer: Json = {
            "EndpointName": record.name, "EndpointArn": arn("endpoint", record.name),
            "EndpointConfigName": record.config_name, "EndpointStatus": record.status,
            "CreationTime": record.created_s, "LastModifiedTime": record.modified_s,
        }  # fmt: skip
        if record.failure:
            answer["FailureReason"] = record.failure
        config = self.catalog.configs.get(record.config_name, {})
        if record.status in ("InService", "Updating"):
            in_force = self._deployments.weights(record.name)
            for side in ("ProductionVariants", "ShadowProductionVariants"):
                entries = [self._summary(v["VariantName"], record, in_force) for v in config.get(side) or []]
                answer |= {side: entries} if entries else {}
        return answer

    def _summary(self, name: str, record: EndpointRecord, in_force: Mapping[str, float]) -> Json:
        count = record.instances.get(name, 1)
        return {
            "VariantName": name, "CurrentWeight": in_force.get(name, 0.0),
            "DesiredWeight": record.desired.get(name, 0.0), "CurrentInstanceCount": count,
            "DesiredInstanceCount": count,
        }  # fmt: skip

    def _list_endpoints(self, given: Json) -> Json:
        contains, status = given.get("NameContains") or "", given.get("StatusEquals")
        found = [e for e in self.endpoints.values() if contains in e.name and status in (None, e.status)]
        by_name = given.get("SortBy") == "Name"
        found.sort(
            key=lambda e: e.name if by_name else e.created_s,
            reverse=given.get("SortOrder", "Descending") == "Descending",
        )
        token, size = given.get("NextToken") or "0", given.get("MaxResults", 10)
        if not (token.isascii() and token.isdecimal()) or not 1 <= size <= 100:
            raise ControlError(f"NextToken or MaxResults (1 to 100) is out of range: {token[:20]!r}, {size}")
        start = int(token)
        page = [
            {"EndpointName": e.name, "EndpointArn": arn("endpoint", e.name), "CreationTime": e.created_s,
             "LastModifiedTime": e.modified_s, "EndpointStatus": e.status}
            for e in found[start : start + size]
        ]  # fmt: skip
        return {"Endpoints": page} | ({"NextToken": str(start + size)} if start + size < len(found) else {})

    def _delete_endpoint(self, given: Json) -> None:
        name, record = known_name(given, "EndpointName", self.endpoints, "endpoint")
        if record.status in ("Creating", "Updating", "Deleting"):
            raise ControlError(f"Cannot update in-progress endpoint {name!r}: {record.status}")
        was_failed, record.status = record.status == "Failed", "Deleting"
        self._spawn(self._deleting(record, was_failed))

    async def _deleting(self, record: EndpointRecord, was_failed: bool) -> None:
        if not was_failed:
            await self._deployments.remove(record.name)
        del self.endpoints[record.name]

    def _in_service(self, given: Json) -> EndpointRecord:
        name, record = known_name(given, "EndpointName", self.endpoints, "endpoint")
        if record.status != "InService":
            raise ControlError(f"Cannot update in-progress endpoint {name!r}: {record.status}")
        found: EndpointRecord = record
        return found

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
