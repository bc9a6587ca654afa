"""No RPC is declared that is not implemented, and the names that others rely on are as designed."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from feature_svc.service import FeatureServicer
from inference_svc.service import InferenceServicer
from mlops_svc.service import MlopsServicer
from quantmesh.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from quantmesh.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from quantmesh.mlops.v1 import mlops_service_pb2, mlops_service_pb2_grpc

SERVICES = [
    (
        feature_service_pb2.DESCRIPTOR.services_by_name["FeatureService"],
        feature_service_pb2_grpc.FeatureServiceServicer,
        FeatureServicer,
        {"PublishFeatures", "GetOnlineFeatures"},
    ),
    (
        inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"],
        inference_service_pb2_grpc.InferenceServiceServicer,
        InferenceServicer,
        {"Predict", "BatchPredict", "StreamPredict", "ListModels", "GetModel"},
    ),
    (
        mlops_service_pb2.DESCRIPTOR.services_by_name["MlopsService"],
        mlops_service_pb2_grpc.MlopsServiceServicer,
        MlopsServicer,
        {
            "RegisterModel",
            "Promote",
            "Rollback",
            "StartShadow",
            "StopShadow",
            "GetDeployment",
            "ListDeployments",
            "WatchDeployments",
        },
    ),
]


@pytest.mark.parametrize(
    ("service", "base", "servicer", "rpcs"), SERVICES, ids=lambda value: getattr(value, "name", "")
)
def test_each_declared_rpc_is_implemented(
    service: ServiceDescriptor, base: type, servicer: type, rpcs: set[str]
) -> None:
    declared = {method.name for method in service.methods}
    assert declared == rpcs
    assert {name for name in declared if getattr(servicer, name) is getattr(base, name)} == set()


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (inference_service_pb2.PredictRequest, {"model_name", "features", "request_id", "metadata"}),
        (
            inference_service_pb2.PredictResponse,
            {"prediction", "model_name", "model_version", "latency_ms", "timestamp", "request_id"},
        ),
        (inference_service_pb2.BatchPredictRequest, {"model_name", "batch"}),
        (
            inference_service_pb2.BatchPredictResponse,
            {"predictions", "model_name", "model_version", "batch_size", "latency_ms", "timestamp"},
        ),
    ],
)
def test_the_documented_fields_are_there(message: type, fields: set[str]) -> None:
    assert fields <= set(message.DESCRIPTOR.fields_by_name)  # type: ignore[attr-defined]
