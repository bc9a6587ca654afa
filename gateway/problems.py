"""Errors of an application as RFC 9457 problem+json, and how its document tells of them."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from runtime.rest.problems import MEDIA_TYPE, details_of


def response_of(error: HTTPException) -> JSONResponse:
    """Render a problem."""
    return JSONResponse(
        details_of(error).model_dump(), error.status_code, _as_dict(error.headers), media_type=MEDIA_TYPE
    )


def _as_dict(headers: Mapping[str, str] | None) -> dict[str, str]:
    return dict(headers or {})


def install(app: FastAPI) -> None:
    """Make an application answer every HTTPException as problem+json."""

    async def render(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return response_of(error)

    app.add_exception_handler(HTTPException, render)


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route that may answer these problems."""
    return {
        int(status): {"description": status.phrase, "content": {MEDIA_TYPE: {"schema": _SCHEMA_REFERENCE}}}
        for status in statuses
    }


_SCHEMA_REFERENCE = {"$ref": "#/components/schemas/ProblemDetails"}
