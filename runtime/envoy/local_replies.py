"""What Envoy itself says to callers, in the mesh's words: gRPC's status and details, problem+json over REST."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from runtime.envoy.values import Json
from runtime.errors import ResourceExhaustedError
from runtime.grpc_calls import message_too_large, too_many
from runtime.grpc_errors import status_code, to_headers
from runtime.grpc_failure import Failure
from runtime.rest.bodies import too_large
from runtime.rest.problems import MEDIA_TYPE, Problem, details_of, problem_of


def local_replies(max_message_bytes: int) -> Sequence[Json]:
    """The replies to a call that is one too many (`runtime.envoy.limit`), and to a body that no buffer holds."""
    surplus = too_many("as many calls are in flight as can be answered in time")
    refused = Failure(status_code(surplus), surplus.message, surplus.reason, (), surplus.retry_after_s)
    return [
        _grpc(HTTPStatus.TOO_MANY_REQUESTS, surplus),
        _rest(problem_of(refused)),
        _grpc(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message_too_large(max_message_bytes)),
        _rest(too_large(f"the body has more than {max_message_bytes} bytes")),
    ]


def _grpc(status: HTTPStatus, error: ResourceExhaustedError) -> Json:
    called = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    return {
        "filter": {"and_filter": {"filters": [_is(status), {"header_filter": {"header": called}}]}},
        "headers_to_add": [_header(name, value) for name, value in to_headers(error) if name != "grpc-message"],
        "body": {"inline_string": error.message},  # becomes the grpc-message
    }


def _rest(problem: Problem) -> Json:
    return {
        "filter": _is(HTTPStatus(problem.status_code)),
        "headers_to_add": [_header(name, value) for name, value in (problem.headers or {}).items()],
        "body": {"inline_string": details_of(problem).model_dump_json()},
        "body_format_override": {
            "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
            "content_type": MEDIA_TYPE,
        },
    }


def _is(status: HTTPStatus) -> Json:
    value = {"default_value": int(status), "runtime_key": "none"}  # Envoy insists on a key
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
