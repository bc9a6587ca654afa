"""NVIDIA Triton (nvidia-pytriton) with the bench's model: `python triton_peer.py MODEL.onnx GRPC_PORT HTTP_PORT`.

Run by its own environment (triton.txt); imports nothing of quantmesh. Triton's server in C++, the model as a Python
callable that runs ONNX Runtime on one thread: the way to serve an ONNX file on CPU that comes from the package index.
Its dynamic batcher runs what waits, up to 128 rows, and waits for no more.
"""

import signal
import sys

import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

MAX_ROWS = 128


def main(model: str, grpc_port: int, http_port: int) -> None:
    """Serve until SIGTERM."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]

    @batch
    def predict(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"prediction": session.run(None, {source.name: rows})[0]}

    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        http_address="127.0.0.1",
        http_port=http_port,
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="bench",
            infer_func=predict,
            inputs=[Tensor(name="rows", dtype=np.float32, shape=(source.shape[1],))],
            outputs=[Tensor(name="prediction", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=MAX_ROWS, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves this block, which ends Triton
        triton.serve()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
