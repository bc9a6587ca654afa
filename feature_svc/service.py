"""FeatureService over gRPC: messages in and out, and nothing else."""

from __future__ import annotations

from typing import TypeAlias

import grpc.aio

from feature_svc import convert
from feature_svc.feature_sets import FeatureSets
from feature_svc.online import OnlineStore
from feature_svc.publisher import Publisher
from quantmesh.feature.v1 import feature_service_pb2 as pb
from quantmesh.feature.v1 import feature_service_pb2_grpc
from runtime import telemetry, times
from runtime.errors import InvalidInputError
from runtime.validation import MAX_REQUEST_ID_CHARS, Violations, request_id

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["FeatureService"].full_name


class FeatureServicer(feature_service_pb2_grpc.FeatureServiceServicer):
    """Translates between the contract and the domain."""

    def __init__(self, publisher: Publisher, online: OnlineStore, sets: FeatureSets, default_set: str) -> None:
        self._publisher = publisher
        self._online = online
        self._sets = sets
        self._default_set = default_set

    async def PublishFeatures(
        self, request: pb.PublishFeaturesRequest, context: _Context
    ) -> pb.PublishFeaturesResponse:
        """See the contract."""
        violations = Violations()
        violations.text("request_id", request.request_id, max_chars=MAX_REQUEST_ID_CHARS)
        violations.raise_if_any()
        raws = [convert.raw_of(message) for message in request.features]
        sent = await self._publisher.publish(raws, telemetry.current_traceparent())
        return pb.PublishFeaturesResponse(
            accepted_count=sent.accepted, duplicate_count=sent.duplicates, request_id=request_id(request.request_id)
        )

    async def GetOnlineFeatures(
        self, request: pb.GetOnlineFeaturesRequest, context: _Context
    ) -> pb.GetOnlineFeaturesResponse:
        """See the contract."""
        as_of_us = None
        if request.HasField("as_of"):
            as_of_us = times.instant_us(request.as_of)
            if as_of_us is None:
                raise InvalidInputError.of_field("as_of", "is no instant of the years 1 to 9999")
        feature_set = request.feature_set or self._default_set
        vectors = await self._online.vectors(request.symbols, feature_set, as_of_us)
        return pb.GetOnlineFeaturesResponse(
            vectors=map(convert.vector_message, vectors), feature_names=self._sets.get(feature_set).names
        )


_Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"
