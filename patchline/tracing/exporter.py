"""Exports spans by OTLP over HTTP, in the trace that the job's producer began. The only user of OpenTelemetry."""

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

_NS_PER_MS = 1_000_000


class Exporter:
    """Sends spans in batches, in the background. Spans that the collector does not accept are dropped and logged.

    OpenTelemetry reads the endpoint, the headers and the batch interval from its environment variables, such as
    OTEL_EXPORTER_OTLP_ENDPOINT (OpenTelemetry specification, OTLP exporter configuration).
    """

    def __init__(self) -> None:
        version = importlib.metadata.version("patchline")
        resource = Resource.create({"service.name": "patchline", "service.version": version})
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("patchline")
        self._propagator = TraceContextTextMapPropagator()

    def export(self, verdict: Verdict) -> None:
        """Export a span for the job and a child span for each stage.

        The job's span continues the trace of its `traceparent` (W3C Trace Context), or begins a new one without it.
        """
        producer = self._propagator.extract({"traceparent": verdict.traceparent or ""})
        job = self._start_span(spans.job_span(verdict), producer, trace.SpanKind.CONSUMER)
        context = trace.set_span_in_context(job)
        for span in spans.stage_spans(verdict):
            self._start_span(span, context, trace.SpanKind.INTERNAL).end(round(span.end_ms * _NS_PER_MS))
        job.end(verdict.decided_at * _NS_PER_MS)

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()

    def _start_span(self, span: Span, parent: Context, kind: trace.SpanKind) -> trace.Span:
        start_ns = round(span.start_ms * _NS_PER_MS)
        started = self._tracer.start_span(span.name, parent, kind, dict(span.attributes), start_time=start_ns)
        if span.failed:
            started.set_status(trace.StatusCode.ERROR)
        return started
