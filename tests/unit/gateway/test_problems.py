"""The table from gRPC status to HTTP, and what a failure may say."""

from __future__ import annotations

import grpc
import pytest

from gateway.settings import GatewaySettings
from runtime import environment
from runtime.errors import ConfigurationError, FieldViolation
from runtime.grpc_failure import Failure
from runtime.rest.predictions import batch_field
from runtime.rest.problems import problem_of

TABLE = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "CANCELLED": 503,
    "DEADLINE_EXCEEDED": 504,
}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_has_its_place_and_a_bare_one_keeps_its_text_to_itself(code: grpc.StatusCode) -> None:
    problem = problem_of(Failure(code, "ipv4:10.0.0.7:50052: connection refused"))
    assert problem.status_code == TABLE.get(code.name, 500)
    assert problem.detail
    assert "10.0.0.7" not in problem.detail


def test_a_limit_of_the_request_itself_is_413_and_not_a_reason_to_try_again() -> None:
    problem = problem_of(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many rows", "BATCH_TOO_LARGE"))
    assert (problem.status_code, problem.headers) == (413, {})


def test_an_internal_error_says_nothing_even_with_a_reason() -> None:
    problem = problem_of(Failure(grpc.StatusCode.INTERNAL, "KeyError: 'x'", reason="SECRET"))
    assert (problem.status_code, problem.reason) == (500, "INTERNAL")
    assert "KeyError" not in problem.detail


@pytest.mark.parametrize(("retry_after_s", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2")])
def test_retry_after_is_whole_seconds_rounded_up(retry_after_s: float, header: str) -> None:
    failure = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "QUEUE_FULL", retry_after_s=retry_after_s)
    assert (problem_of(failure).headers or {}).get("retry-after") == header


def test_while_inference_is_away_there_is_always_a_time_to_come_again() -> None:
    for retry_after_s, header in ((None, "1"), (4.2, "5")):
        failure = Failure(grpc.StatusCode.UNAVAILABLE, "gone", retry_after_s=retry_after_s)
        assert (problem_of(failure).headers or {}).get("retry-after") == header


@pytest.mark.parametrize(
    ("grpc_field", "rest_field"),
    [
        ("batch[3].features[17]", "batch[3][17]"),
        ("batch[3].features", "batch[3]"),
        ("batch", "batch"),
        ("model_name", "model_name"),
    ],
)
def test_batch_fields_are_named_as_the_body_has_them(grpc_field: str, rest_field: str) -> None:
    assert batch_field(FieldViolation(grpc_field, "bad")) == FieldViolation(rest_field, "bad")


def test_inference_is_the_mesh_s_own_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GatewaySettings(host="0.0.0.0", inference_port=5).inference_address == "127.0.0.1:5"
    monkeypatch.setenv("QUANTMESH_INFERENCE_ADDRESS", "elsewhere:1")
    assert GatewaySettings(inference_port=5).inference_address == "elsewhere:1"


def test_inference_may_be_several_replicas_but_no_list_that_cannot_be_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTMESH_INFERENCE_ADDRESS", "10.0.0.1:1,10.0.0.2:2")
    assert environment.read(GatewaySettings).inference_address == "10.0.0.1:1,10.0.0.2:2"
    monkeypatch.setenv("QUANTMESH_INFERENCE_ADDRESS", "here:1,there:2")
    with pytest.raises(ConfigurationError, match="QUANTMESH_INFERENCE_ADDRESS: 'here:1' is not one"):
        environment.read(GatewaySettings)
