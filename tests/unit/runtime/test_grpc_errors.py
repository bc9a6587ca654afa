"""Errors as google.rpc.Status: nothing is missing, and nothing is too large for the trailers of an answer."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

from runtime import errors
from runtime.grpc_errors import domain_error, status_code, to_status


def unpacked(status: status_pb2.Status, kind: type) -> list:  # type: ignore[type-arg]
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


def test_a_status_carries_reason_fields_and_when_to_try_again() -> None:
    error = errors.ResourceExhaustedError(
        "full", reason="STREAM_FULL", metadata={"stream": "orders"}, retry_after_s=1.5, field="features"
    )
    status = to_status(error)
    assert (status.code, status.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "full")
    (info,) = unpacked(status, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("STREAM_FULL", "quantmesh", {"stream": "orders"})
    (bad,) = unpacked(status, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("features", "full")]
    (retry,) = unpacked(status, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 1500


@given(
    st.text(max_size=5000),
    st.lists(st.tuples(st.text(max_size=2000), st.text(max_size=2000)), max_size=30),
    st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=3000), max_size=2),
)
def test_whatever_it_says_it_fits_into_the_trailers(
    message: str, violations: list[tuple[str, str]], metadata: dict[str, str]
) -> None:
    listed = [errors.FieldViolation(field, description) for field, description in violations]
    status = to_status(errors.InvalidInputError(message, reason="R", violations=listed, metadata=metadata))
    # In base64, beside the message in percent-encoding.
    assert len(status.SerializeToString()) * 4 / 3 + len(status.message.encode()) * 3 < 8000
    if violations:
        (bad,) = unpacked(status, error_details_pb2.BadRequest)
        assert bad.field_violations, "one is always named"


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (RedisConnectionError("gone"), grpc.StatusCode.UNAVAILABLE, "REDIS_UNAVAILABLE"),
        (OutOfMemoryError("OOM command not allowed"), grpc.StatusCode.UNAVAILABLE, "REDIS_REFUSES_WRITES"),
        (ResponseError("MISCONF disk is full"), grpc.StatusCode.UNAVAILABLE, "REDIS_REFUSES_WRITES"),
        (errors.NotFoundError("no", reason="X"), grpc.StatusCode.NOT_FOUND, "X"),
    ],
)
def test_what_an_exception_stands_for(error: Exception, code: grpc.StatusCode, reason: str) -> None:
    found = domain_error(error)
    assert found is not None
    assert (status_code(found), found.reason) == (code, reason)


@pytest.mark.parametrize("bug", [ValueError("x"), ResponseError("WRONGTYPE"), OSError("disk")])
def test_a_bug_stands_for_nothing(bug: Exception) -> None:
    assert domain_error(bug) is None
