"""Traces for OpenTelemetry: a span for each message that an instance handles, and for each delivery of a command.

    caller of handle() ─► handle OrderPlaced ─► deliver ReserveStock ─► handle StockReserved (its reply)
                                └─ sets a timer ··(link)·· fire PaymentOverdue

What follows at once is a child. What waited (a timer, an event held for a repair) begins a trace of its own, with a link
back: a trace of months would be of no use to anybody. The context is kept in the record as a W3C traceparent, so it
survives crashes, takeovers and months; one that is damaged there only ends the trace.

Only the API is needed: the spans go where the application's own tracer provider sends them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..errors import MissingExtraError
from ..runner import Delivery, Handling, Hook

try:
    from opentelemetry import trace
    from opentelemetry.context import Context, attach, detach
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as _error:
    raise MissingExtraError("traces need the package opentelemetry-api: pip install 'sagalog[otel]'") from _error

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

_NAMES = {"event": "handle", "timer": "fire", "refused": "hear of refused", "child": "hear of"}
_WRONG = frozenset({"failed", "unavailable", "unknown"})
_traceparent = TraceContextTextMapPropagator()


class OpenTelemetryHook(Hook):
    """Makes spans with `tracer_provider` (default: the global one). Names, ids and outcomes go into them, payloads never.

    The caller's current context is the cause of an event; a command handler runs in the context of its delivery, so
    that what it calls is a child of it. Raises MissingExtraError (at import) without the package.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("sagalog", tracer_provider=tracer_provider)
        self._spans: WeakKeyDictionary[Handling | Delivery, Span] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<OpenTelemetryHook, {len(self._spans)} spans open>"

    def caller(self) -> str:
        return _text(trace.get_current_span())

    def handling(self, handling: Handling) -> str:
        cause = _context(handling.cause)
        links = []
        if handling.waited:
            # Its own attributes tell nothing of the cause; the link is all that leads back.
            links = [Link(context)] if (context := trace.get_current_span(cause).get_span_context()).is_valid else []
            cause = Context()
        return self._begin(
            handling,
            f"{_NAMES[handling.kind]} {handling.type}",
            cause,
            links,
            SpanKind.CONSUMER if handling.kind == "event" else SpanKind.INTERNAL,
            {
                "sagalog.saga": handling.saga,
                "sagalog.correlation_id": handling.correlation_id,
                "sagalog.message_id": handling.message_id,
                "sagalog.sequence_nr": handling.sequence_nr,
            },
        )

    def handled(self, handling: Handling) -> None:
        self._end(handling)

    def delivering(self, delivery: Delivery) -> str:
        return self._begin(
            delivery,
            f"deliver {delivery.command}",
            _context(delivery.cause),
            [],
            SpanKind.INTERNAL,
            {
                "sagalog.saga": delivery.saga,
                "sagalog.correlation_id": delivery.correlation_id,
                "sagalog.command_id": delivery.command_id,
                "sagalog.attempt": delivery.attempt,
                "sagalog.undo": delivery.undo,
            },
        )

    def within(self, delivery: Delivery) -> AbstractContextManager[Any] | None:
        span = self._spans.get(delivery)
        return None if span is None else _Current(span)

    def delivered(self, delivery: Delivery) -> None:
        if delivery not in self._spans:  # it has no handler: nothing was called
            self.delivering(delivery)
        self._end(delivery)

    def _begin(
        self,
        what: Handling | Delivery,
        name: str,
        cause: Context,
        links: list[Link],
        kind: SpanKind,
        attributes: dict[str, str | int | bool],
    ) -> str:
        # The context is always given: a step may run in the task of anybody, whose current span is none of its business.
        span = self._tracer.start_span(name, cause, kind, attributes, links)
        self._spans[what] = span
        return _text(span)

    def _end(self, what: Handling | Delivery) -> None:
        span = self._spans.pop(what)
        if span.is_recording():
            span.set_attribute("sagalog.outcome", what.outcome)
            if what.error:
                span.set_attribute("error.type", what.error)
            if what.outcome in _WRONG:
                span.set_status(Status(StatusCode.ERROR, what.error))
        span.end()


class _Current(AbstractContextManager[None]):
    """A span that is the current one for a while; what is raised meanwhile is told by the delivery's outcome."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._token = attach(trace.set_span_in_context(self._span))

    def __exit__(self, *error: object) -> None:
        detach(self._token)


def _text(span: Span) -> str:
    """Return the W3C traceparent of a span (https://www.w3.org/TR/trace-context/#traceparent-header), or "" for none."""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _context(traceparent: str) -> Context:
    """Return the context that a traceparent names; an empty one for what is none."""
    return _traceparent.extract({"traceparent": traceparent}, Context()) if traceparent else Context()


__all__ = ["OpenTelemetryHook"]
