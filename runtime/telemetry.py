"""Traces, by OpenTelemetry: spans, and the W3C traceparent that carries them through gRPC, REST and streams.

Spans are exported over OTLP when `OTEL_EXPORTER_OTLP_ENDPOINT` (or its traces variant) names a collector, as the
OpenTelemetry specification has it; without one they are made, so that trace ids flow, and dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def configure(service: str) -> TracerProvider:
    """Install the tracer provider of this process. Call `shutdown()` on it at the end: it sends what is left."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    if exported():
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def exported() -> bool:
    """Whether spans go anywhere."""
    return any(os.environ.get(name) for name in _ENDPOINTS)


def tracer(name: str = "quantmesh") -> trace.Tracer:
    """A tracer of the installed provider."""
    return trace.get_tracer(name)


def format_traceparent(context: SpanContext) -> str:
    """W3C traceparent of a span context; empty when it is not valid."""
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def current_traceparent() -> str:
    """W3C traceparent of the current span; empty when there is none."""
    return format_traceparent(trace.get_current_span().get_span_context())


def parse_traceparent(traceparent: str) -> SpanContext | None:
    """Read a W3C traceparent (version 00); None when it is absent or malformed, which starts a new trace."""
    parts = traceparent.split("-")
    if len(parts) < 4 or [len(part) for part in parts[:4]] != [2, 32, 16, 2] or parts[0] == "ff":
        return None
    try:
        trace_id, span_id, flags = int(parts[1], 16), int(parts[2], 16), int(parts[3], 16)
    except ValueError:
        return None
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def trace_id_of(traceparent: str) -> str:
    """Trace id of a traceparent, 32 lower-case hexadecimal characters; empty when there is none."""
    context = parse_traceparent(traceparent)
    return f"{context.trace_id:032x}" if context else ""


def parent_context(traceparent: str) -> Context | None:
    """OpenTelemetry context whose current span is the remote one; None (the ambient context) without a traceparent."""
    context = parse_traceparent(traceparent)
    return trace.set_span_in_context(NonRecordingSpan(context)) if context else None


@contextmanager
def span(
    name: str, traceparent: str = "", kind: SpanKind = SpanKind.INTERNAL, **attributes: AttributeValue
) -> Iterator[Span]:
    """Run a block in a span that continues `traceparent`, or the current span when that is empty."""
    context = parent_context(traceparent)
    with tracer().start_as_current_span(name, context=context, kind=kind, attributes=attributes) as current:
        yield current


@contextmanager
def detached_span(
    name: str, traceparent: str = "", kind: SpanKind = SpanKind.INTERNAL, **attributes: AttributeValue
) -> Iterator[Span]:
    """A span that is never the current one by itself: for a generator, which may be closed in another context than it
    was begun in. Its steps run `within` it.
    """
    made = tracer().start_span(name, parent_context(traceparent), kind, attributes)
    try:
        yield made
    except Exception as error:
        made.record_exception(error)
        made.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        raise
    finally:
        made.end()


def within(span: Span) -> AbstractContextManager[Span]:
    """Make a span the current one of a block. The block must not yield."""
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)
