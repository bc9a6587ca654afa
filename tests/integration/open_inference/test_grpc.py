"""What only gRPC has: streams, typed contents, reflection; and the contract beside tritonclient's own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor

from inference import grpc_service_pb2 as pb
from inference import grpc_service_pb2_grpc, model_config_pb2
from runtime.grpc_client import channel
from tests.integration.inference_svc.calls import failure
from tests.integration.inference_svc.models import ridge, rows
from tests.integration.open_inference.conftest import Serve
from tests.integration.open_inference.models import classifier, direct, two_inputs
from tests.integration.open_inference.triton import Triton, outputs, same, tensor

X = rows(5).astype(np.float32)


async def test_the_contract_is_tritonclients(triton_python: Path) -> None:
    (theirs,) = await Triton(triton_python, "none")({})

    def check(descriptor: Descriptor, whole: bool) -> None:
        if descriptor.GetOptions().map_entry:
            return
        ours = {each.name: [each.number, each.type, each.is_repeated] for each in descriptor.fields}
        of_client = theirs["fields"][descriptor.full_name]
        assert ours == (of_client if whole else {name: of_client[name] for name in ours})
        for each in descriptor.nested_types:
            check(each, whole)

    for each in pb.DESCRIPTOR.message_types_by_name.values():
        check(each, whole=True)
    for each in model_config_pb2.DESCRIPTOR.message_types_by_name.values():
        check(each, whole=False)
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert theirs["methods"] == {
        each.name: [each.input_type.full_name, each.client_streaming, each.output_type.full_name, each.server_streaming]
        for each in service.methods
    }
    assert theirs["datatypes"] == dict(model_config_pb2.DataType.items())


def test_each_declared_rpc_is_implemented() -> None:
    from inference_svc.oip.service import OpenInferenceServicer

    base = grpc_service_pb2_grpc.GRPCInferenceServiceServicer
    declared = {each.name for each in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    assert {name for name in declared if getattr(OpenInferenceServicer, name) is getattr(base, name)} == set()


async def test_a_stream_is_answered_in_order_and_survives_faults(serve: Serve) -> None:
    requests = [{"inputs": {"X": tensor(X[: 1 + at % 5])}, "request_id": str(at)} for at in range(40)]
    requests[7] = {"inputs": {"X": tensor(X[:, :2])}, "request_id": "7"}
    requests[20] = {"inputs": {"X": tensor(X)}, "model": "nothing", "request_id": "20"}
    requests[30] = {"inputs": {"X": tensor(X)}, "outputs": ["probabilities"], "request_id": "30"}
    async with serve(classifier()) as triton:
        (results,) = await triton({"do": "stream", "requests": requests, "final": True})
    expected = direct(classifier(), {"X": X})
    for at, result in enumerate(results):
        if at == 7:
            assert "FEATURE_COUNT_MISMATCH: " in result["error"]
        elif at == 20:
            assert "UNKNOWN_MODEL: " in result["error"]
        else:
            found = outputs(result)["probabilities"]
            assert (result["id"], same(found, expected["probabilities"][: len(found)])) == (str(at), True)
            assert result["parameters"]["triton_final_response"] is True


async def test_typed_contents_are_read_as_raw_ones_are(serve: Serve) -> None:
    request = pb.ModelInferRequest(model_name="momentum")
    request.inputs.add(name="count", datatype="INT64", shape=[2]).contents.int64_contents.extend([2, -3])
    prices = request.inputs.add(name="prices", datatype="FP32", shape=[2, 2])
    prices.contents.fp32_contents.extend([0.1, 2, 3, 4])
    feed = {"prices": np.array([[0.1, 2], [3, 4]], np.float32), "count": np.array([2, -3], np.int64)}
    async with serve(two_inputs()) as triton, channel(triton.url) as opened:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(opened)
        answer = await stub.ModelInfer(request)
        assert list(answer.raw_output_contents) == [each.tobytes() for each in direct(two_inputs(), feed).values()]
        prices.datatype = "FP64"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(request)
        assert failure(caught.value).reason == "CONTENTS_MISMATCH"
        assert failure(caught.value).fields == ('inputs["prices"]',)
        prices.datatype = "FP32"
        request.inputs[0].contents.int64_contents[1] = 2**53 + 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(request)
        assert (failure(caught.value).reason, failure(caught.value).fields) == ("OUT_OF_RANGE", ('inputs["count"]',))
        del request.inputs[1]
        request.inputs[0].contents.int64_contents[1] = 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(request)
        assert (failure(caught.value).reason, failure(caught.value).fields) == (
            "MISSING_INPUT",
            ('inputs["prices"]',),
        )


async def test_a_whole_graph_waits_its_turn_and_a_caller_who_left_is_not_waited_for(serve: Serve) -> None:
    request = pb.ModelInferRequest(raw_input_contents=[X.tobytes()])
    request.inputs.add(name="X", datatype="FP32", shape=X.shape)
    async with serve(classifier()) as triton, channel(triton.url) as opened:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(opened)
        calls = [stub.ModelInfer(request) for _ in range(20)]
        for left in calls[::2]:
            left.cancel()
        answers = await asyncio.gather(*calls[1::2])
        assert {bytes(each.raw_output_contents[1]) for each in answers} == {
            direct(classifier(), {"X": X})["probabilities"].tobytes()
        }


async def test_grpcurl_lists_the_service(serve: Serve) -> None:
    async with serve(ridge(1.0)) as triton:
        process = await asyncio.create_subprocess_exec(
            Path(sys.prefix) / "bin" / "grpcurl", "-plaintext", triton.url, "list", stdout=asyncio.subprocess.PIPE
        )
        listed, _ = await process.communicate()
    assert "inference.GRPCInferenceService" in listed.decode().split()
