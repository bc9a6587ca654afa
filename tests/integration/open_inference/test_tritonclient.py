"""tritonclient, unmodified, over gRPC and over HTTP: what it asks, and ONNX Runtime's own answers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.integration.inference_svc.models import boosted, ridge, rows, table
from tests.integration.open_inference.conftest import Serve
from tests.integration.open_inference.models import classifier, direct, text_labels, two_inputs
from tests.integration.open_inference.triton import infer, outputs, read, same, tensor

X = rows(5).astype(np.float32)
PRICES = np.array([[1.5, 2.25], [-3, 0.1], [7, 8]], np.float32)
pytestmark = pytest.mark.usefixtures("protocol")

COUNT = np.array([1, -2, 3], np.int64)


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_metadata_and_configuration_tell_the_graphs_tensors(serve: Serve) -> None:
    async with serve(two_inputs()) as triton:
        live, ready, of_model, unknown, server, metadata, config, index = await triton(
            read("is_server_live"),
            read("is_server_ready"),
            read("is_model_ready", "momentum"),
            read("is_model_ready", "nothing"),
            read("get_server_metadata"),
            read("get_model_metadata", "momentum@champion"),
            read("get_model_config", "champion"),
            read("get_model_repository_index"),
        )
    assert (live, ready, of_model, unknown) == (True, True, True, False)
    assert (server["name"], "statistics" in server["extensions"]) == ("quantmesh", True)
    assert metadata["name"] == "momentum@champion"
    assert [(each["name"], each["datatype"], [int(axis) for axis in each["shape"]]) for each in metadata["inputs"]] == [
        ("prices", "FP32", [-1, 2]),
        ("count", "INT64", [-1]),
    ]
    assert [each["name"] for each in metadata["outputs"]] == ["score", "doubled"]
    config = config.get("config", config)
    assert (config["name"], config["max_batch_size"]) == ("champion", 4096)
    assert [each["data_type"] for each in config["input"]] == ["TYPE_FP32", "TYPE_INT64"]
    assert config["parameters"]["prediction_output"]["string_value"] == "score"
    index = index["models"] if isinstance(index, dict) else index
    assert [(each["name"], each["version"], each["state"]) for each in index] == [
        ("momentum", metadata["versions"][0], "READY")
    ]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
async def test_a_prediction_is_onnx_runtimes_bit_for_bit(serve: Serve, binary: bool) -> None:
    _, onnx = boosted()
    async with serve(onnx) as triton:
        results = await triton(
            infer({"X": X}, binary=binary, outputs=["variable"], request_id="call-1"),
            infer({"X": X}),
            infer({"X": X.astype(np.float64)}, binary=binary, outputs=["variable"]),
            *(infer({"X": X}, outputs=["variable"], compression=each) for each in ("gzip", "deflate")),
        )
    expected = direct(onnx, {"X": X})["variable"]
    assert [same(outputs(each)["variable"], expected) for each in results] == [True] * 5
    assert results[0]["id"] == "call-1"
    assert {name: int(value) for name, value in results[0]["parameters"].items()} == {"generation": 1, "batch_rows": 5}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
async def test_a_classifier_gives_its_label_and_probabilities(serve: Serve, binary: bool) -> None:
    async with serve(classifier()) as triton:
        everything, some = await triton(infer({"X": X}), infer({"X": X}, outputs=["probabilities"], binary=binary))
    expected = direct(classifier(), {"X": X})
    assert list(everything["outputs"]) == ["label", "probabilities"]
    assert all(same(values, expected[name]) for name, values in outputs(everything).items())
    assert list(some["outputs"]) == ["probabilities"]
    assert same(outputs(some)["probabilities"], expected["probabilities"])


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
async def test_labels_may_be_texts(serve: Serve, binary: bool) -> None:
    async with serve(text_labels()) as triton:
        (result,) = await triton(infer({"X": X}, outputs=["label"], binary=binary))
    assert outputs(result)["label"].tolist() == direct(text_labels(), {"X": X})["label"].tolist()


async def test_two_inputs_go_in_by_name(serve: Serve) -> None:
    feed = {"prices": PRICES, "count": COUNT}
    async with serve(two_inputs()) as triton:
        results = await triton(
            infer(feed),
            infer({"count": COUNT, "prices": PRICES}, outputs=["doubled", "score"], binary=False),
            infer(feed, outputs=["score"]),
        )
    expected = direct(two_inputs(), feed)
    for result in results:
        assert all(same(values, expected[name]) for name, values in outputs(result).items())
    assert [list(each["outputs"]) for each in results] == [["score", "doubled"], ["doubled", "score"], ["score"]]


async def test_versions_are_the_champion_and_the_one_before(serve: Serve) -> None:
    async with serve(ridge(1.0), ridge(2.0)) as triton:
        metadata, by_name = await triton(read("get_model_metadata", "momentum"), infer({"X": X}, model="momentum"))
        champion, previous = metadata["versions"]
        old, by_digest, unknown = await triton(
            infer({"X": X}, model="momentum", model_version=previous),
            infer({"X": X}, model=champion),
            infer({"X": X}, model="momentum", model_version="1"),
        )
    assert by_name["model_version"] == champion
    assert same(outputs(by_name)["variable"], direct(ridge(2.0), {"X": X})["variable"])
    assert same(outputs(old)["variable"], direct(ridge(1.0), {"X": X})["variable"])
    assert same(outputs(by_digest)["variable"], outputs(by_name)["variable"])
    assert champion in unknown["error"]


async def test_async_infer_answers_each(serve: Serve) -> None:
    requests = [{"inputs": {"X": tensor(X[:count])}, "request_id": str(count)} for count in (1, 2, 3, 4)]
    async with serve(ridge(1.0)) as triton:
        (results,) = await triton({"do": "async_infer", "requests": requests})
    assert [each["id"] for each in results] == ["1", "2", "3", "4"]
    for count, result in enumerate(results, 1):
        assert outputs(result)["variable"] == pytest.approx(direct(ridge(1.0), {"X": X[:count]})["variable"], abs=1e-6)


async def test_statistics_count_what_was_done(serve: Serve) -> None:
    async with serve(classifier()) as triton:
        *_, statistics, of_all = await triton(
            infer({"X": X}),
            infer({"X": X}, outputs=["probabilities"]),
            infer({"X": X[:, :2]}),
            read("get_inference_statistics", "momentum"),
            read("get_inference_statistics"),
        )
    (found,) = statistics["model_stats"]
    assert (found["name"], int(found["inference_count"]), int(found["execution_count"])) == ("momentum", 10, 2)
    seen = found["inference_stats"]
    assert (int(seen["success"]["count"]), int(seen["fail"]["count"])) == (2, 1)
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert sum(int(seen[part].get("ns", 0)) for part in parts) == pytest.approx(int(seen["success"]["ns"]), abs=10)
    assert [(int(each["batch_size"]), int(each["compute_infer"]["count"])) for each in found["batch_stats"]] == [(5, 2)]
    assert int(found["last_inference"]) > 1_700_000_000_000
    assert [each["version"] for each in of_all["model_stats"]] == [found["version"]]


async def test_a_fault_is_told_with_its_input(serve: Serve, protocol: str) -> None:
    nan = np.where(np.arange(3) == 1, np.nan, X[:2]).astype(np.float32)
    async with serve(ridge(1.0)) as triton:
        results = await triton(
            infer({"X": X}, model="nothing"),
            infer({"X": X.astype(np.int64)}),
            infer({"X": X[:, :2]}),
            infer({"X": X[0]}),
            infer({"X": nan}),
            infer({"Y": X}),
            infer({"X": X}, outputs=["label"]),
            infer({"X": X}, priority=9),
            infer({"X": X}, sequence_id=5),
            infer({"X": X}, outputs=["variable"], class_count=1),
            infer({"X": X[:1]}, shared_memory="region"),
            infer({"X": rows(4097).astype(np.float32)}),
        )
    texts = [
        "'nothing'",
        'inputs["X"].datatype: is INT64; must be FP32 or FP64',
        'inputs["X"].shape: has 2 features',
        'inputs["X"].shape: is [3]; must be [rows, 3]',
        'inputs["X"][0][1]: is nan; must be a finite number',
        'inputs["Y"]: the model takes X',
        'outputs["label"]: the model does not give it; it gives variable',
        "parameters.priority: must be 1 (high)",
        "parameters.sequence_id: models keep no state",
        "parameters.classification: ask for the probabilities",
        "parameters.shared_memory_region: there is no shared memory here",
        "at most 4096 are allowed",
    ]
    for result, text in zip(results, texts, strict=True):
        assert text in result["error"]
    bad = ["StatusCode.INVALID_ARGUMENT"] * 10 if protocol == "grpc" else ["400"] * 10
    first, last = ("StatusCode.NOT_FOUND", "StatusCode.RESOURCE_EXHAUSTED") if protocol == "grpc" else ("404", "413")
    assert [result["status"] for result in results] == [first, *bad, last]


async def test_the_models_own_faults_name_the_row(serve: Serve) -> None:
    x = np.array([[0, 0, 0], [1, 0, 0], [5, 0, 0]], np.float32)
    async with serve(table(1.0, float("inf"))) as triton:
        good, infinite, failed = await triton(*(infer({"rows": part}) for part in (x[:1], x[:2], x[::2])))
    assert outputs(good)["prediction"].tolist() == [1.0]
    assert "gave inf for row 1" in infinite["error"]
    assert "failed on row 1" in failed["error"]


async def test_priority_and_timeout_are_terms_of_a_call(serve: Serve) -> None:
    async with serve(ridge(1.0)) as triton:
        good, late = await triton(
            infer({"X": X}, priority=1, timeout=10_000_000, parameters={"desk": "a"}), infer({"X": X}, timeout=1)
        )
    assert "variable" in outputs(good)
    assert "deadline" in late["error"]


async def test_what_is_loaded_follows_deployments(serve: Serve, protocol: str) -> None:
    async with serve(ridge(1.0)) as triton:
        loaded, load, unload, memory = await triton(
            read("load_model", "momentum"),
            read("load_model", "carry"),
            read("unload_model", "momentum"),
            read("get_system_shared_memory_status"),
        )
    assert loaded is None
    assert "quantmesh promote" in load["error"]
    assert "quantmesh rollback" in unload["error"]
    assert "shared memory" in memory["error"]
    statuses = ["FAILED_PRECONDITION", "FAILED_PRECONDITION", "UNIMPLEMENTED"]
    expected = [f"StatusCode.{name}" for name in statuses] if protocol == "grpc" else ["409", "409", "501"]
    assert [each["status"] for each in (load, unload, memory)] == expected
