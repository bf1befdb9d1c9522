"""The Open Inference Protocol's paths."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from lab import __version__
from lab.serve.engine.variant import Variant
from lab.serve.engine.work import Work
from lab.serve.inference import Call, Inference
from lab.serve.protocols import oip
from lab.serve.protocols.errors import NotReadyError
from lab.serve.protocols.http import Request, Response
from lab.serve.protocols.sagemaker import session_of
from lab.serve.table import Endpoints


@dataclass(frozen=True)
class OpenInference:
    """Handlers of /v2; a model is an endpoint, its version a variant."""

    endpoints: Endpoints
    inference: Inference

    async def server(self, request: Request, segments: tuple[str, ...]) -> Response:
        return Response(200, orjson.dumps(oip.server_metadata(__version__)))

    async def live(self, request: Request, segments: tuple[str, ...]) -> Response:
        """The process answers."""
        return Response(200, orjson.dumps({"live": True}))

    async def ready(self, request: Request, segments: tuple[str, ...]) -> Response:
        """Every endpoint can answer, and the process is not going down."""
        live = self.endpoints.live.values()
        ready = bool(live) and all(one.is_ready for one in live) and not self.endpoints.draining
        return Response(200 if ready else 503, orjson.dumps({"ready": ready}))

    async def model_ready(self, request: Request, segments: tuple[str, ...]) -> Response:
        ready = self.endpoints[segments[0]].named(_version(segments)).is_ready
        return Response(200 if ready else 503, orjson.dumps({"name": segments[0], "ready": ready}))

    async def metadata(self, request: Request, segments: tuple[str, ...]) -> Response:
        """Names, datatypes and shapes: of the variant named as version, else of the first."""
        endpoint = self.endpoints[segments[0]]
        variant = endpoint.named(_version(segments))
        if variant.model is None:
            raise NotReadyError(f"variant {variant.config.name} is not ready")
        versions = [one.config.name for one in endpoint.variants]
        described = oip.model_metadata(endpoint.name, versions, variant.model.runner.name, variant.model.signature)
        return Response(200, orjson.dumps(described))

    async def infer(self, request: Request, segments: tuple[str, ...]) -> Response:
        endpoint = self.endpoints[segments[0]]
        body = await request.read()
        header_length = request.header(oip.HEADER_LENGTH)
        target = _version(segments) or request.header("x-amzn-sagemaker-target-variant")
        target = target or oip.pinned_variant(body, header_length)

        def work(variant: Variant, keep: bool) -> Work:
            return oip.InferWork(body, header_length, endpoint.name, variant.config.name, keep)

        unit, _ = session_of(request, endpoint.unit_header)
        served = await self.inference.run(Call(request, endpoint, "oip", work, unit, target))
        told = (("X-Lab-Inference-Id", served.inference_id), ("x-Amzn-Invoked-Production-Variant", served.variant))
        return Response(200, served.answer.body, served.answer.content_type, (*served.answer.headers, *told))


def _version(segments: tuple[str, ...]) -> str | None:
    return segments[1] if len(segments) > 1 else None
