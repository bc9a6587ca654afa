"""Structured logs: readable on a terminal, one JSON object a line otherwise, with the trace they belong to."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from runtime.settings import MeshSettings


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
    return event


_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _add_trace,
]


def _formatter(renderer: structlog.typing.Processor) -> logging.Formatter:
    processors: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if isinstance(renderer, structlog.processors.JSONRenderer):
        processors.append(structlog.processors.format_exc_info)
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=[*processors, renderer])


class _CallerHasGone(logging.Filter):
    """Keeps out what grpcio says, with a traceback, of a caller that left just when its answer was to be sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        return kind is None or kind.__name__ != "ExecuteBatchError"


def configure(service: str, settings: MeshSettings) -> None:
    """Set up structlog and the standard library's logging alike, on standard error."""
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level]
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _formatter(structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer())
    )
    handler.addFilter(_CallerHasGone())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each request
    structlog.contextvars.bind_contextvars(service=service)


@contextmanager
def kept_in(path: Path, limit_bytes: int) -> Iterator[FilteringBoundLogger]:
    """Write what is logged to a file too, as JSON; one that grows over the limit is kept once, as `<name>.1`.

    Gives a logger of which the lines go to the file only. Whatever else is logged goes there when `configure` was
    called.
    """
    handler = RotatingFileHandler(path, maxBytes=limit_bytes, backupCount=1)
    handler.setFormatter(_formatter(structlog.processors.JSONRenderer()))
    only_there = logging.Logger(str(path))  # of nobody's tree
    loggers = (only_there, logging.getLogger())
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield structlog.wrap_logger(
            only_there,
            processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        )
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
