"""Tracer providers of OpenTelemetry's SDK, which only the tests install. Spans are handed over in batches, and dropped."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased


class Dropping(SpanExporter):
    """Takes spans, and keeps none."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def provider_of(part: float) -> TracerProvider:
    """Return a provider that records this part of all traces."""
    made = TracerProvider(sampler=ALWAYS_ON if part == 1 else ParentBased(TraceIdRatioBased(part)))
    made.add_span_processor(BatchSpanProcessor(Dropping(), max_queue_size=1 << 20))
    return made
