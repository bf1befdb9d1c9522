"""What one writes in an afternoon: FastAPI around ONNX Runtime, tensors in and out as .npy, run in the thread pool.

MODEL is an ONNX file, or empty for no model: it answers zeros.
"""

import io
import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

app = FastAPI()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
path = os.environ.get("MODEL", "")
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) if path else None


def predict(body: bytes) -> bytes:
    x = np.load(io.BytesIO(body), allow_pickle=False)
    y = session.run(None, {session.get_inputs()[0].name: x})[0] if session else np.zeros((len(x), 1000), np.float32)
    buffer = io.BytesIO()
    np.save(buffer, y)
    return buffer.getvalue()


@app.get("/ping")
async def ping() -> dict[str, str]:
    return {}


@app.post("/invocations")
async def invocations(request: Request) -> Response:
    return Response(await run_in_threadpool(predict, await request.body()), media_type="application/x-npy")
