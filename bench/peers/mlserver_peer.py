"""MLServer's model for the bench: one ONNX file, one tensor in, one out, ONNX Runtime on one thread.

Run by its own environment (mlserver.txt); imports nothing of quantmesh. MLServer has no runtime for ONNX: this is the
custom one that its documentation asks for. `bench/inference/peers.py` writes its settings.
"""

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxRuntime(MLModel):
    """Scores the rows of the first input."""

    async def load(self) -> bool:
        """Open the file that the settings name."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        values = self._session.run(None, {self._input: rows.astype(np.float32, copy=False)})[0]
        output = NumpyCodec.encode_output("prediction", values)
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
