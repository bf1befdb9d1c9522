"""A whole worker and its supervisor in one process, without sockets: raw HTTP, every path, the control plane's JSON."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import sys
from functools import cache
from typing import Any

import orjson
from uvicorn.server import ServerState

from benchmarks.fuzzing.files import KEY, scratch
from benchmarks.fuzzing.limits import BreachError, Target
from benchmarks.fuzzing.requests import SIDE, X, framed, manifests, npy, picture, unframed
from lab.core.errors import LabError
from lab.core.progress import set_quiet
from lab.serve.app import App
from lab.serve.channel import RemoteError
from lab.serve.config import EndpointConfig
from lab.serve.control_plane import ControlPlane
from lab.serve.engine.variant import Variant
from lab.serve.ids import Origin, make_id
from lab.serve.inference import Inference
from lab.serve.models import of_config
from lab.serve.protocols.errors import AccountedError, ModelRaisedError, to_serve_error
from lab.serve.protocols.http import Response
from lab.serve.routes import error_forms, routes
from lab.serve.server import make_server
from lab.serve.slab import CODES, Meter
from lab.serve.supervisor import Supervisor
from lab.serve.table import Endpoints, LiveEndpoint

_KEY_NAME = "inference-ids.key"
_ANSWER_S = 20.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_AMZ = "application/x-amz-json-1.1"


class DirectChannel:
    """The worker's channel without a second process: messages go through JSON as they do over the socket."""

    def __init__(self, supervisor: Supervisor, unexpected: list[BaseException]) -> None:
        self._handlers, self._unexpected = supervisor._handlers(), unexpected

    async def request(self, name: str, timeout_s: float = 60.0, **arguments: Any) -> Any:
        sent = orjson.loads(orjson.dumps({"arguments": arguments}, option=orjson.OPT_SERIALIZE_NUMPY))
        try:
            answer = await self._handlers[name](sent["arguments"])
        except LabError as error:
            raise RemoteError(error.to_dict()) from error
        except Exception as error:
            self._unexpected.append(error)
            raise RemoteError({"kind": "error", "what": f"{name} failed"}) from error
        return orjson.loads(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))


class StrictApp(App):
    """Remembers what it had to answer for as a mistake of ours."""

    unexpected: list[BaseException]

    def _answer(self, error: Exception, protocol: str) -> tuple[Response, str]:
        if to_serve_error(error)[1]:
            self.unexpected.append(error)
        elif isinstance(error, ModelRaisedError):  # the variant has mapped it already
            carried = sys.exc_info()[1]
            cause = carried.__cause__ if isinstance(carried, AccountedError) else None
            self.unexpected.append(cause or error)
        return super()._answer(error, protocol)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 8080)})
        self.written = bytearray()
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class InProcess:
    """One endpoint with two variants that answer zeros, a guard with one outcome metric, and tokens for nobody."""

    def __init__(self) -> None:
        set_quiet(True)
        self.loop = asyncio.new_event_loop()
        self.folder = scratch("endpoint")
        for name in ("one", "two"):
            (self.folder / name).mkdir()
            manifests()["images"].save(self.folder / name)
        (self.folder / "state" / "shop").mkdir(parents=True)
        (self.folder / "state" / "shop" / _KEY_NAME).write_bytes(KEY)
        variants = [
            {"name": name, "model": str(self.folder / name), "engine": "zeros", "weight": weight}
            for name, weight in (("one", 0.9), ("two", 0.1))
        ]
        self.config = EndpointConfig.model_validate({
            "endpoint": "shop", "variants": variants, "security": {"model_root": str(self.folder)},
            "log": {"state_dir": str(self.folder / "state")},
            "guard": {"control": "one", "metrics": {"correct": {"better": "higher", "margin": 0.1}}},
        })  # fmt: skip
        self.unexpected: list[BaseException] = []
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        config = self.config
        self.supervisor = Supervisor(config)
        deployed = of_config(config, self.folder / "store", {})
        self.endpoint = self.supervisor.deployments.endpoint(config.endpoint, deployed)
        await self.supervisor.topology.deploy(self.supervisor.fleet, self.endpoint)
        self.supervisor.guarding.watch(self.endpoint)
        self.supervisor.control.adopt(config, {v.config.name: (v.folder,) for v in deployed})
        inference = Inference(config, self.supervisor.slab, 0, KEY)
        endpoints = Endpoints(config.endpoint)
        live = []
        for one in deployed:
            variant = Variant(one.config, one.folder, Meter(self.supervisor.slab, 0, one.slot))
            await endpoints.load(one.slot, variant)
            live.append(variant)
        endpoints.activate(LiveEndpoint("shop", "lab", "x-session-id", tuple(live), (), self.supervisor.slab))
        channel = DirectChannel(self.supervisor, self.unexpected)
        table = routes(config, endpoints, inference, channel)  # type: ignore[arg-type]
        self.app = StrictApp(config, table, error_forms(), lambda *arguments: None)
        self.app.unexpected = self.unexpected
        settings = make_server(config, self.app).config
        settings.load()
        self.settings, self.state = settings, ServerState()
        control = self.supervisor.control
        self._kept = (control.catalog.models, control.catalog.configs, control.endpoints)

    def _reset(self) -> None:
        """Undo what requests have changed, so that every input meets the same endpoint."""
        self.unexpected.clear()
        control, topology = self.supervisor.control, self.supervisor.topology
        models, configs, records = self._kept
        control.catalog.models, control.catalog.configs = dict(models), dict(configs)
        control.endpoints = {name: copy.copy(record) for name, record in records.items()}
        topology.endpoints = {"shop": self.endpoint}
        topology._loaded = {one.slot: one for one in self.endpoint.all()}
        topology.set_weights(self.endpoint, {"one": 0.9, "two": 0.1})

    def http(self, data: bytes) -> None:
        """One connection's bytes. The first byte says after how many the rest comes apart."""
        self._reset()
        self.loop.run_until_complete(asyncio.wait_for(self._http(data), _ANSWER_S))
        self._judge()

    async def _http(self, data: bytes) -> None:
        protocol = self.settings.http_protocol_class(
            config=self.settings, server_state=self.state, app_state={}, _loop=self.loop
        )
        transport = Transport()
        protocol.connection_made(transport)
        cut = data[0] * 8 if data else 0
        for part in (data[1 : 1 + cut], data[1 + cut :]):
            if part and not transport.closing:
                protocol.data_received(part)
                await asyncio.sleep(0)
        for _ in range(200):  # requests that wait for more of their body go on waiting
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        if self.state.tasks:
            await asyncio.wait(set(self.state.tasks))
        for status in _STATUS.findall(bytes(transport.written)):
            if int(status) not in (100, *CODES) or status == b"500":
                raise BreachError(f"answered {status.decode()}")

    def call(self, data: bytes) -> None:
        """One request, given as a head (`request: METHOD PATH`, then headers) and a body, to the application."""
        self._reset()
        self.loop.run_until_complete(asyncio.wait_for(self._call(data), _ANSWER_S))
        self._judge()

    async def _call(self, data: bytes) -> None:
        head, body = unframed(data)
        method, _, target = head.pop("request", "POST /invocations").partition(" ")
        path, _, query = target.partition("?")
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode("latin-1"),
                 "headers": [(b"host", b"localhost"), *headers], "client": ("127.0.0.1", 5)}  # fmt: skip
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(event: Any) -> None:
            sent.append(event)

        await self.app(scope, receive, send)
        status = sent[0]["status"]
        if status not in CODES or status == 500 or len(sent) != 2:
            raise BreachError(f"answered {status}")
        for name, value in sent[0]["headers"]:
            if b"\n" in value or b"\r" in value or b"\n" in name:
                raise BreachError("a line break in a header of the answer")
        if dict(sent[0]["headers"])[b"content-type"].startswith(b"application/json") and sent[1]["body"]:
            json.loads(sent[1]["body"])

    def _judge(self) -> None:
        if self.unexpected:
            raise self.unexpected[0]


@cache
def in_process() -> InProcess:
    return InProcess()


class _Deployments:
    """Does as told, at once."""

    async def deploy(self, name: str, variants: Any) -> None: ...

    async def shift(self, name: str, variants: Any, plan: Any) -> str:
        return ""

    async def remove(self, name: str) -> None: ...

    def set_weights(self, name: str, weights: Any) -> None: ...

    def weights(self, name: str) -> dict[str, float]:
        return {"v": 1.0}


def _control(data: bytes) -> None:
    """A line per operation, `Operation {"JSON": ...}`, to a control plane of their own."""
    process = in_process()
    process.loop.run_until_complete(asyncio.wait_for(_operations(process, data), _ANSWER_S))


async def _operations(process: InProcess, data: bytes) -> None:
    control = ControlPlane(process.config, _Deployments())
    for line in data.split(b"\n")[:30]:
        operation, _, text = line.partition(b" ")
        try:
            arguments = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if isinstance(arguments, dict):
            status, body = control.call(operation.decode("latin-1"), arguments)
            assert status in (200, 400, 404)
            orjson.dumps(body)
            await asyncio.sleep(0)
    while control._tasks:
        await asyncio.gather(*control._tasks)


_MODEL = {"ModelName": "m", "ExecutionRoleArn": "arn", "PrimaryContainer": {"Image": "any", "ModelDataUrl": "one"}}
_PIPELINE = {
    "ModelName": "p",
    "Containers": [{"ModelDataUrl": "one", "Environment": {"LAB_MAX_BATCH": "4"}}, {"ModelDataUrl": "two"}],
}
_VARIANT = {"VariantName": "v", "ModelName": "m", "InitialInstanceCount": 1, "InitialVariantWeight": 1.0}
_CONFIG = {"EndpointConfigName": "c", "ProductionVariants": [_VARIANT], "Tags": []}
_LINEAR = {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": {
    "Type": "LINEAR", "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 10}, "WaitIntervalInSeconds": 60},
    "TerminationWaitInSeconds": 10}, "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}]}}  # fmt: skip
_ROLLING = {
    "RollingUpdatePolicy": {"MaximumBatchSize": {"Type": "INSTANCE_COUNT", "Value": 1}, "WaitIntervalInSeconds": 0}
}
_STORY = [
    ("CreateModel", _MODEL), ("CreateModel", _PIPELINE), ("DescribeModel", {"ModelName": "p"}),
    ("CreateEndpointConfig", _CONFIG), ("DescribeEndpointConfig", {"EndpointConfigName": "c"}),
    ("CreateEndpoint", {"EndpointName": "e", "EndpointConfigName": "c"}), ("DescribeEndpoint", {"EndpointName": "e"}),
    ("UpdateEndpointWeightsAndCapacities",
     {"EndpointName": "e",
      "DesiredWeightsAndCapacities": [{"VariantName": "v", "DesiredWeight": 2, "DesiredInstanceCount": 3}]}),
    ("UpdateEndpoint", {"EndpointName": "e", "EndpointConfigName": "c", "DeploymentConfig": _LINEAR,
                        "RetainAllVariantProperties": True,
                        "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DesiredWeight"}]}),
    ("ListEndpoints",
     {"NameContains": "e", "MaxResults": 5, "NextToken": "0", "SortBy": "Name", "StatusEquals": "InService"}),
    ("DeleteEndpoint", {"EndpointName": "e"}), ("DeleteEndpointConfig", {"EndpointConfigName": "c"}),
    ("DeleteModel", {"ModelName": "m"}),
]  # fmt: skip


def _control_seeds() -> list[bytes]:
    def text(operations: list[tuple[str, Any]]) -> bytes:
        return b"\n".join(f"{name} {json.dumps(given)}".encode() for name, given in operations)

    # Mutations of values change the first JSON of an input: each operation comes first in a story of its own.
    stories = [text([_STORY[at], *_STORY]) for at in range(len(_STORY))]
    rolling = [
        *_STORY[:6],
        ("UpdateEndpoint", {"EndpointName": "e", "EndpointConfigName": "c", "DeploymentConfig": _ROLLING}),
    ]
    return [text(_STORY), text(rolling), *stories]


def _call_seeds() -> list[bytes]:
    inference_id = make_id(KEY, Origin("two", 5, False, True))
    outcome = json.dumps({"inference_id": inference_id, "metric": "correct", "value": 1}).encode()
    invoke = {"x_amzn_sagemaker_target_variant": "two", "x_amzn_sagemaker_session_id": "NEW_SESSION",
              "x_amzn_sagemaker_inference_id": "mine", "x_amzn_sagemaker_custom_attributes": "a=b",
              "accept": "*/*"}  # fmt: skip
    json_kind = {"content_type": "application/json"}
    document = {
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": X.ravel().tolist()}]
    }
    operations = [
        framed(json.dumps(given).encode(), request="POST /", content_type=_AMZ, x_amz_target=f"SageMaker.{name}")
        for name, given in _STORY
    ]
    return [
        framed(npy(X), request="POST /endpoints/shop/invocations", content_type="application/x-npy", **invoke),
        framed(picture("PNG"), request="POST /invocations", content_type="image/png", x_session_id="unit"),
        framed(json.dumps(document).encode(), request="POST /v2/models/shop/versions/two/infer", **json_kind),
        framed(outcome, request="POST /endpoints/shop/feedback", **json_kind),
        framed(b'{"one": 0.5, "two": 0.5}', request="POST /endpoints/shop/weights", **json_kind),
        framed(b'{"variant": "two"}', request="POST /endpoints/shop/rollout", **json_kind),
        framed(b'{"variant": "two", "model": "two"}', request="POST /endpoints/shop/reload", **json_kind),
        framed(b"", request="GET /v2/models/shop/versions/one/ready"), framed(b"", request="GET /v2/models/shop"),
        framed(b"", request="GET /metrics"), framed(b"", request="GET /state"), framed(b"", request="HEAD /ping"),
        framed(b"", request="GET /openapi.json", authorization="Bearer x"), *operations,
    ]  # fmt: skip


def _raw(head: str, body: bytes = b"", cut: int = 255) -> bytes:
    length = f"content-length: {len(body)}\r\n" if body else ""
    return bytes([cut]) + (head.replace("\n", "\r\n") + length).encode() + b"\r\n" + body


def _http_seeds() -> list[bytes]:
    post = "POST /invocations HTTP/1.1\nHost: localhost\n"
    chunked = b"4\r\n\x93NUM\r\n2;name=value\r\nPY\r\n0\r\nTrailer: x\r\n\r\n"
    return [
        _raw("GET /ping HTTP/1.1\nHost: localhost\n"), _raw(post + "Content-Type: application/x-npy\n", npy(X), 9),
        _raw(post + "Expect: 100-continue\nContent-Type: application/x-npy\n", npy(X)),
        _raw(post + "Transfer-Encoding: chunked\nContent-Type: application/x-npy\n") + chunked,
        _raw(post + "Content-Length: 4\nTransfer-Encoding: chunked\n") + b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        _raw("GET /ping HTTP/1.0\nHost: localhost\nConnection: close\n"),
        _raw("GET /ping HTTP/1.1\nHost: localhost\n") + _raw("GET /v2 HTTP/1.1\nHost: localhost\n")[1:],
        _raw("GET /ping HTTP/1.1\nHost: localhost\nConnection: Upgrade\nUpgrade: websocket\n"),
        _raw("OPTIONS * HTTP/1.1\nHost: localhost:1\n"), _raw("CONNECT localhost:80 HTTP/1.1\nHost: [::1]:8\n"),
    ]  # fmt: skip


_HEADERS = (
    b"X-Amzn-SageMaker-Target-Variant: two\r\n", b"X-Amzn-SageMaker-Session-Id: NEW_SESSION\r\n", b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"Host: localhost\r\n", b"\r\n\r\n",
    b" HTTP/1.1\r\n", b"Inference-Header-Content-Length: 5\r\n", b"0\r\n\r\n", b"%2e%2e/", b"?a=%ff",
    b"Connection: close\r\n",
)  # fmt: skip
_NAMES = (b"x-amzn-sagemaker-session-id: ", b"inference-header-content-length: ",
          b"authorization: AWS4-HMAC-SHA256 Credential=/",
          b"x-amz-target: SageMaker.", b"content-encoding: gzip\n", b"ModelName", b"null")  # fmt: skip

TARGETS = (
    Target("http", "raw bytes of a connection: request lines, headers, chunks, pipelined requests", _http_seeds,
           lambda data: in_process().http(data), allowed=(), words=_HEADERS),
    Target("paths", "every path with its headers and JSON, through supervisor and worker", _call_seeds,
           lambda data: in_process().call(data), allowed=(), words=_NAMES),
    Target("control-plane", "SageMaker's control-plane JSON, operations in sequence", _control_seeds, _control,
           allowed=(), words=(b"ModelName", b"VariantName", b"Containers", b"Environment", b"file:///etc", b"null")),
)  # fmt: skip
