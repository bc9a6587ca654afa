"""Answers that describe: metadata, configuration, statistics, index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version as version_of

from inference import grpc_service_pb2 as pb
from inference import model_config_pb2 as config_pb
from inference_svc.costs import Calls
from inference_svc.oip.datatypes import BY_DTYPE
from inference_svc.oip.inputs import DEFAULT_PRIORITY, PRIORITY_LEVELS
from inference_svc.oip.plan import Plan
from inference_svc.registry import Target
from modelstore.signature import TensorSpec

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
"""Names that the protocol gives to its extensions."""


def server_metadata() -> pb.ServerMetadataResponse:
    """What serves."""
    return pb.ServerMetadataResponse(name="quantmesh", version=version_of("quantmesh"), extensions=EXTENSIONS)


def model_metadata(name: str, versions: Iterable[str], plan: Plan) -> pb.ModelMetadataResponse:
    """Tensors of a model; `name` is the one that was asked for."""
    return pb.ModelMetadataResponse(
        name=name,
        versions=versions,
        platform=PLATFORM,
        inputs=[_tensor(each.spec) for each in plan.inputs],
        outputs=[_tensor(each.spec) for each in plan.outputs.values()],
    )


def model_config(name: str, plan: Plan, *, max_rows: int, call_rows: int) -> config_pb.ModelConfig:
    """How a model is run: at most `max_rows` a request and `call_rows` a call."""
    manifest = plan.loaded.manifest
    said = {
        "feature_set": manifest.feature_set,
        "feature_names": ",".join(manifest.feature_names),
        "prediction_unit": manifest.prediction_unit,
        "prediction_output": plan.model.prediction.output,
    }
    kinds = config_pb.ModelInstanceGroup
    kind = kinds.KIND_GPU if plan.model.providers[0].startswith("CUDA") else kinds.KIND_CPU
    return config_pb.ModelConfig(
        name=name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=max_rows,
        input=[
            config_pb.ModelInput(
                name=each.spec.name, data_type=BY_DTYPE[each.spec.dtype].in_config, dims=_axes(each.spec)[1:]
            )
            for each in plan.inputs
        ],
        output=[
            config_pb.ModelOutput(name=each.spec.name, data_type=each.datatype.in_config, dims=_axes(each.spec)[1:])
            for each in plan.outputs.values()
        ],
        instance_group=[kinds(name=BACKEND, count=1, kind=kind)],
        default_model_filename="model.onnx",
        dynamic_batching=config_pb.ModelDynamicBatching(
            preferred_batch_size=[call_rows],
            preserve_ordering=True,
            priority_levels=PRIORITY_LEVELS,
            default_priority_level=DEFAULT_PRIORITY,
        ),
        model_transaction_policy=config_pb.ModelTransactionPolicy(decoupled=False),
        parameters={key: config_pb.ModelParameter(string_value=value) for key, value in said.items()},
    )


def model_statistics(target: Target, plan: Plan) -> pb.ModelStatistics:
    """What a version has done since it was loaded."""
    seen, calls = plan.statistics, target.loaded.lane.calls
    return pb.ModelStatistics(
        name=target.strategy,
        version=target.loaded.version,
        last_inference=seen.last_inference_ms,
        inference_count=calls.rows,
        execution_count=calls.count,
        inference_stats=pb.InferStatistics(
            success=_duration(seen.success, seen.success_s),
            fail=_duration(seen.fail, seen.fail_s),
            queue=_duration(seen.success, seen.queue_s),
            compute_input=_duration(seen.success, seen.compute_input_s),
            compute_infer=_duration(seen.success, seen.compute_infer_s),
            compute_output=_duration(seen.success, seen.compute_output_s),
        ),
        batch_stats=_batches(calls),
    )


def model_index(target: Target) -> pb.RepositoryIndexResponse.ModelIndex:
    """A loaded version."""
    return pb.RepositoryIndexResponse.ModelIndex(name=target.strategy, version=target.loaded.version, state="READY")


def _batches(calls: Calls) -> list[pb.InferBatchStatistics]:
    return [
        pb.InferBatchStatistics(batch_size=rows, compute_infer=_duration(count, seconds))
        for rows, (count, seconds) in sorted(calls.by_rows.items())
    ]


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=max(round(seconds * 1e9), 0))


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=BY_DTYPE[spec.dtype].name, shape=_axes(spec)
    )


def _axes(spec: TensorSpec) -> Sequence[int]:
    return [-1 if axis is None else axis for axis in spec.shape]
