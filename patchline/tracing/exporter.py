"""Spans out by OTLP over http, in the trace that the job's producer began. Only this file imports OpenTelemetry."""

from __future__ import annotations

import importlib.metadata

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from patchline.protocol.messages import Verdict
from patchline.tracing import spans
from patchline.tracing.spans import Span

_NS = 1_000_000


class Exporter:
    """Batches in the background; what the collector does not take is dropped after a while, and the log says so.

    Where to, with which headers and how often is said by OpenTelemetry's own environment variables, such as
    OTEL_EXPORTER_OTLP_ENDPOINT (OpenTelemetry specification, OTLP exporter configuration).
    """

    def __init__(self) -> None:
        version = importlib.metadata.version("patchline")
        resource = Resource.create({"service.name": "patchline", "service.version": version})
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("patchline")
        self._traces = TraceContextTextMapPropagator()

    def export(self, verdict: Verdict) -> None:
        """A span for the job, a child of its traceparent where it has one (W3C Trace Context), and those inside."""
        producer = self._traces.extract({"traceparent": verdict.traceparent or ""})
        job = self._started(spans.of_job(verdict), producer, trace.SpanKind.CONSUMER)
        for each in spans.inside(verdict):
            self._started(each, trace.set_span_in_context(job), trace.SpanKind.INTERNAL).end(round(each.end_ms * _NS))
        job.end(verdict.decided_at * _NS)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _started(self, span: Span, parent: Context, kind: trace.SpanKind) -> trace.Span:
        began = round(span.start_ms * _NS)
        started = self._tracer.start_span(span.name, parent, kind, dict(span.attributes), start_time=began)
        if span.failed:
            started.set_status(trace.StatusCode.ERROR)
        return started
