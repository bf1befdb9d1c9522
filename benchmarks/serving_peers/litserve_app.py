"""LitServe as its documentation has it: one API class, a form with .npy in, .npy out. MODEL is as in fastapi_app."""

import io
import os
import sys

import litserve as ls
import numpy as np
import onnxruntime
from fastapi import Request, Response


class Api(ls.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = os.environ.get("MODEL", "")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) if path else None

    def decode_request(self, request: Request) -> np.ndarray:
        return np.load(io.BytesIO(request["x"].file.read()), allow_pickle=False)

    def predict(self, x: np.ndarray) -> np.ndarray:
        if self.session is None:
            return np.zeros((len(x), 1000), np.float32)
        return self.session.run(None, {self.session.get_inputs()[0].name: x})[0]

    def encode_response(self, y: np.ndarray) -> Response:
        buffer = io.BytesIO()
        np.save(buffer, y)
        return Response(buffer.getvalue(), media_type="application/x-npy")


if __name__ == "__main__":
    server = ls.LitServer(
        Api(api_path="/invocations"), accelerator="cpu", workers_per_device=int(os.environ.get("WORKERS", "1"))
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
