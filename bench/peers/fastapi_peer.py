"""FastAPI, its thread pool and ONNX Runtime: `python fastapi_peer.py MODEL.onnx HTTP_PORT`.

Run by its own environment (fastapi.txt); imports nothing of quantmesh. What a team writes in an afternoon: a typed
body, a `def` endpoint (so it runs in the thread pool), uvicorn with uvloop and httptools, no access log.
"""

import sys
import time

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Request(BaseModel):
    """One row."""

    features: list[float]


class Response(BaseModel):
    """One prediction."""

    prediction: float
    latency_ms: float


def main(model: str, http_port: int) -> None:
    """Serve until SIGTERM."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    app = FastAPI()

    @app.post("/predict")
    def predict(request: Request) -> Response:
        started = time.perf_counter()
        value = session.run(None, {name: np.asarray([request.features], np.float32)})[0]
        return Response(prediction=float(value[0, 0]), latency_ms=(time.perf_counter() - started) * 1000)

    uvicorn.run(app, host="127.0.0.1", port=http_port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
