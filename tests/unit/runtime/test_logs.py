"""What is kept out of the logs: a caller that leaves is no error of the service."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from grpc._cython import cygrpc

from runtime import logs
from runtime.settings import MeshSettings


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def raised(error: Exception) -> None:
    try:
        raise error
    except type(error):
        logging.getLogger("grpc._cython.cygrpc").exception("raised by a servicer")


def test_of_a_caller_that_has_gone_grpcio_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("a_service", MeshSettings(redis_url=None, log_format="json"))
    raised(cygrpc.ExecuteBatchError("Failed"))
    assert capsys.readouterr().err == ""
    raised(ValueError("a bug"))
    assert "ValueError: a bug" in capsys.readouterr().err
