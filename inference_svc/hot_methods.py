"""The calls of a replica that are answered within Envoy, by the same servicers as all others."""

from __future__ import annotations

from collections.abc import Sequence

from inference import grpc_service_pb2
from inference_svc.oip.service import OpenInferenceServicer
from inference_svc.process import BATCH_PREDICT, MODEL_INFER, PREDICT, REST_BATCH, REST_PREDICT
from inference_svc.service import InferenceServicer
from quantmesh.inference.v1 import inference_service_pb2 as pb
from runtime.envoy.grpc_method import GrpcMethod
from runtime.envoy.hot_app import HotMethod
from runtime.envoy.rest_method import RestMethod
from runtime.rest import predictions as rest
from runtime.rest.shapes import BatchBody, PredictBody


def hot_methods(
    servicer: InferenceServicer, open_servicer: OpenInferenceServicer, max_bytes: int
) -> Sequence[HotMethod]:
    """`max_bytes` is the most of a message, and of a body."""
    return [
        GrpcMethod(PREDICT, pb.PredictRequest, servicer.Predict, max_bytes),
        GrpcMethod(BATCH_PREDICT, pb.BatchPredictRequest, servicer.BatchPredict, max_bytes),
        GrpcMethod(MODEL_INFER, grpc_service_pb2.ModelInferRequest, open_servicer.ModelInfer, max_bytes),
        RestMethod(REST_PREDICT, PredictBody, rest.predict_request, servicer.Predict, rest.predict_answer, max_bytes),
        RestMethod(
            REST_BATCH,
            BatchBody,
            rest.batch_request,
            servicer.BatchPredict,
            rest.batch_answer,
            max_bytes,
            rename=rest.batch_field,
        ),
    ]
