"""One suite for both listeners: whoever answers, a client sees the same gRPC."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelstore.onnx_model import OnnxModel
from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1 import inference_service_pb2_grpc
from tests.inference_process import LISTENERS, Replica, serving
from tests.integration.inference_svc.calls import batch, failure
from tests.integration.inference_svc.models import FEATURES, boosted, rows
from tests.raw_h2 import PREDICT, Answer, call, frame

ROW = [0.5, -1.0, 2.0]
GOOD = pb.PredictRequest(features=ROW).SerializeToString()
LIMIT = 4 * 1024 * 1024

PATIENT = {"INFER_P99_MS_TARGET": "30000", "INFER_QUEUE_ROWS": "1000000", "QUANTMESH_MAX_BATCH_ROWS": "16000"}
"""Nothing is refused for load here, however slow the machine is."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", params=LISTENERS)
def replica(request: pytest.FixtureRequest, home: Path, store: str) -> Iterator[Replica]:
    with asyncio.Runner() as runner:
        context = serving(home, store, request.param, **PATIENT)
        running = runner.run(context.__aenter__())
        yield running
        alive = running.process.poll() is None
        runner.run(context.__aexit__(None, None, None))
    assert alive, running.said
    assert "Traceback" not in running.said
    assert "panicked" not in running.said


def channel(replica: Replica, **options: object) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(replica.address, list(options.items()))


async def test_calls_of_a_grpcio_client(replica: Replica) -> None:
    model, matrix = OnnxModel.load(boosted()[1]), rows(500)
    async with channel(replica) as opened:
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        one = stub.Predict(pb.PredictRequest(features=matrix[0], request_id="r", metadata={"desk": "a"}), timeout=10)
        answer = await one
        assert answer.prediction == model.predict(matrix[:1])[0]
        assert (answer.request_id, dict(answer.metadata), answer.model_name) == ("r", {"desk": "a"}, "champion")
        assert await one.code() is grpc.StatusCode.OK
        many = await stub.BatchPredict(batch(matrix.tolist()), timeout=10)
        assert np.allclose(many.predictions, model.predict(matrix), atol=1e-6)
        models = await stub.ListModels(pb.ListModelsRequest(), timeout=10)
        assert [each.alias for each in models.models] == ["champion"]
        streamed = [
            each.predictions[0]
            async for each in stub.StreamPredict(iter([pb.StreamPredictRequest(features=row) for row in matrix]))
        ]
        assert np.allclose(streamed, model.predict(matrix), atol=1e-6)
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await opened.unary_unary("/quantmesh.inference.v1.InferenceService/Nothing")(b"")
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_errors_have_status_reason_and_field(replica: Replica) -> None:
    expected = {
        "too few": (pb.PredictRequest(features=[1.0]), "INVALID_ARGUMENT", "FEATURE_COUNT_MISMATCH", ("features",)),
        "nan": (
            pb.PredictRequest(features=[1.0, float("nan"), float("inf")]),
            "INVALID_ARGUMENT",
            "NON_FINITE_FEATURE",
            ("features[1]", "features[2]"),
        ),
        "unknown": (pb.PredictRequest(model_name="nobody"), "NOT_FOUND", "UNKNOWN_MODEL", ("model_name",)),
        "no name": (
            pb.PredictRequest(model_name="ä % \n@"),
            "INVALID_ARGUMENT",
            "INVALID_MODEL_NAME",
            ("model_name",),
        ),
        "too many rows": (batch([ROW] * 16_001), "RESOURCE_EXHAUSTED", "BATCH_TOO_LARGE", ("batch",)),
        "no rows": (pb.BatchPredictRequest(), "INVALID_ARGUMENT", "INVALID_FIELD", ("batch",)),
    }
    async with channel(replica) as opened:
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        for name, (request, code, reason, fields) in expected.items():
            method = stub.Predict if isinstance(request, pb.PredictRequest) else stub.BatchPredict
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await method(request, timeout=10)  # type: ignore[arg-type]
            found = failure(raised.value)
            assert (name, found.code.name, found.reason, found.fields) == (name, code, reason, fields)
            assert found.message


async def test_a_deadline_that_has_passed_is_told(replica: Replica) -> None:
    answer = await call(replica.port, frame(GOOD), [("grpc-timeout", "0m")])
    assert answer.status == 4 or answer.reset
    # Envoy counts in milliseconds, rounded up: it may well answer within the first.
    answer = await call(replica.port, frame(GOOD), [("grpc-timeout", "1n")])
    assert answer.status in (0, 4) or answer.reset
    assert (await call(replica.port, frame(GOOD), [("grpc-timeout", "99999999H")])).status == 0


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_calls(replica: Replica, algorithm: grpc.Compression) -> None:
    async with grpc.aio.insecure_channel(replica.address, compression=algorithm) as opened:
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        answer = await stub.BatchPredict(batch([ROW] * 500), timeout=10)
        assert len(set(answer.predictions)) == 1
        assert (await stub.Predict(pb.PredictRequest(features=ROW), timeout=10)).prediction == pytest.approx(
            answer.predictions[0]
        )


async def test_messages_up_to_the_limit_pass_and_larger_ones_are_refused(replica: Replica) -> None:
    def sized(size: int) -> pb.PredictRequest:
        """A request whose packed rows make it too long for the model: it is read in full, then refused."""
        return pb.PredictRequest(packed=pb.PackedRows(rows=1, values=b"x" * size))

    async with channel(replica, **{"grpc.max_send_message_length": -1}) as opened:
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        for size, code in ((LIMIT - 100, "INVALID_ARGUMENT"), (LIMIT + 100, "RESOURCE_EXHAUSTED")):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Predict(sized(size), timeout=20)
            assert raised.value.code().name == code


@pytest.mark.parametrize("rows_", [8100, 8189, 8190, 8191, 8192, 16_000])
async def test_answers_around_the_flow_control_window_arrive_whole(replica: Replica, rows_: int) -> None:
    """65,535 bytes is where HTTP/2's first window ends, and a prediction has 8."""
    matrix = rows(rows_).astype("<f4")
    request = pb.BatchPredictRequest(
        packed=pb.PackedRows(type=pb.FLOAT_TYPE_FLOAT32, rows=rows_, values=matrix.tobytes())
    )
    async with channel(replica) as opened:
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        answers = await asyncio.gather(*(stub.BatchPredict(request, timeout=30) for _ in range(4)))
    expected = OnnxModel.load(boosted()[1]).predict(matrix.astype(np.float64))
    assert all(np.allclose(answer.predictions, expected, atol=1e-6) for answer in answers)


async def test_many_calls_at_once_on_one_connection(replica: Replica) -> None:
    model, matrix = OnnxModel.load(boosted()[1]), rows(600)
    async with channel(replica) as opened:
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        answers = await asyncio.gather(*(stub.Predict(pb.PredictRequest(features=row), timeout=30) for row in matrix))
    assert np.allclose([answer.prediction for answer in answers], model.predict(matrix), atol=1e-6)


async def test_callers_that_give_up_harm_nobody(replica: Replica) -> None:
    async with channel(replica) as opened:
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        big = batch(rows(4000).tolist())
        for _ in range(5):
            calls = [stub.BatchPredict(big, timeout=30) for _ in range(4)]
            await asyncio.sleep(0.01)
            for each in calls:
                each.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        assert (await stub.Predict(pb.PredictRequest(features=ROW), timeout=10)).prediction


BAD_FRAMES = {
    "no message": (b"", {3, 13}),
    "cut head": (b"\0\0\0", {3, 13}),
    "cut message": (frame(GOOD, length=len(GOOD) + 7), {3, 13}),
    "two messages": (frame(GOOD) * 2, {3, 12, 13}),
    "not a message": (frame(b"\xff\xff\xff\xff\xff"), {3}),
    "compressed without an encoding": (frame(GOOD, flag=1), {3, 12, 13}),
    "claims four gigabytes": (frame(GOOD, length=0xFFFFFFFF), {3, 8, 13}),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
async def test_bad_frames_are_told_and_end_only_their_own_call(replica: Replica, name: str) -> None:
    body, codes = BAD_FRAMES[name]
    try:
        answer = await call(replica.port, body, limit_s=2)
    except TimeoutError:  # grpcio waits for the rest of a message, until the caller's deadline
        assert "grpcio" in replica.log.name
    else:
        # What is marked as compressed, and has no encoding, grpcio takes as it is; of two messages, the first.
        lenient = (
            {0}
            if "grpcio" in replica.log.name and name in ("compressed without an encoding", "two messages")
            else set()
        )
        assert answer.status in codes | lenient or answer.reset
    assert (await call(replica.port, frame(GOOD))).status == 0


@pytest.mark.parametrize("timeout", ["-1S", "5", "S", "123456789S", "1x", "", "1.5S"])
async def test_a_bad_timeout_is_told_or_ignored_but_never_a_crash(replica: Replica, timeout: str) -> None:
    answer = await call(replica.port, frame(GOOD), [("grpc-timeout", timeout)])
    assert answer.status in (0, 3, 4, 13) or answer.reset


async def test_garbage_that_claims_to_be_compressed_is_refused(replica: Replica) -> None:
    for encoding in ("gzip", "deflate", "snappy"):
        answer = await call(replica.port, frame(b"garbage", flag=1), [("grpc-encoding", encoding)])
        assert answer.status in (3, 12, 13) or answer.reset
    assert (await call(replica.port, frame(GOOD))).status == 0


async def test_what_is_no_grpc_call_gets_an_answer(replica: Replica) -> None:
    for headers in ([("content-type", "text/plain")], [("content-type", "application/json")]):
        try:
            answer = await call(replica.port, b"", headers, limit_s=1)
        except TimeoutError:  # grpcio takes it for a call, and waits for its message
            assert "grpcio" in replica.log.name
        else:
            assert answer.reset or answer.headers[":status"] == "415"
    assert (await call(replica.port, frame(GOOD), path="/nothing")).status == 12


def test_grpcurl_lists_describes_and_calls(replica: Replica) -> None:
    def grpcurl(*arguments: str) -> str:
        command = [Path(sys.executable).parent / "grpcurl", "-plaintext", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    address = replica.address
    assert "quantmesh.inference.v1.InferenceService" in grpcurl(address, "list").split()
    said = grpcurl("-d", json.dumps({"features": ROW}), address, PREDICT[1:])
    assert json.loads(said)["prediction"]
    assert json.loads(grpcurl(address, "grpc.health.v1.Health/Check"))["status"] == "SERVING"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bodies=st.lists(st.one_of(st.binary(max_size=300), st.binary(max_size=200).map(frame)), min_size=1, max_size=8),
    timeout=st.text("0123456789HMSmun-", max_size=10),
)
def test_random_bytes_never_end_the_server(replica: Replica, bodies: list[bytes], timeout: str) -> None:
    async def send() -> None:
        headers = [("grpc-timeout", timeout)] if timeout else ()
        answers = await asyncio.gather(
            *(call(replica.port, body, headers, limit_s=2) for body in bodies), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, TimeoutError):
                assert "grpcio" in replica.log.name
            else:
                assert isinstance(answer, Answer)
                assert answer.reset or answer.status >= 0 or answer.headers.get(":status") != "200"
        assert (await call(replica.port, frame(GOOD))).status == 0

    asyncio.run(send())


NODE = r"""
const grpc = require('@grpc/grpc-js');
const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const identity = (value) => value;
const request = Buffer.from(process.argv[3], 'hex');
client.makeUnaryRequest(process.argv[4], identity, identity, request, new grpc.Metadata(),
  {deadline: Date.now() + 10000}, (error, reply) => {
    console.log(JSON.stringify({code: error ? error.code : 0, reply: reply ? reply.toString('hex') : ''}));
    client.close();
  });
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
async def test_calls_of_a_node_client(replica: Replica, grpc_js: Path) -> None:
    script = grpc_js / "call.js"
    script.write_text(NODE)
    for request, code in ((GOOD, 0), (pb.PredictRequest(features=[1.0]).SerializeToString(), 3)):
        done = await asyncio.to_thread(
            subprocess.run,
            ["node", script, replica.address, request.hex(), PREDICT],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        said = json.loads(done.stdout)
        assert said["code"] == code
        if not code:
            assert pb.PredictResponse.FromString(bytes.fromhex(said["reply"])).model_name == "champion"


@pytest.fixture(scope="session")
def grpc_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with @grpc/grpc-js, from npm's own cache or registry."""
    folder = tmp_path_factory.mktemp("node")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on this machine")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "@grpc/grpc-js@1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install @grpc/grpc-js: {done.stderr[-200:]}")
    return folder


assert len(FEATURES) == len(ROW)
