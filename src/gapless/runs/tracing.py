"""OpenTelemetry spans of runs, where its API is installed; nothing otherwise.

One span per run, named and attributed as the semantic conventions for generative AI say (`invoke_agent {agent}`). It is
current while the agent runs, so that the spans of frameworks and HTTP clients are its children.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from gapless.errors import GaplessError
from gapless.records import RunRecord

__all__ = ["run_span"]


@functools.cache
def _tracer() -> Any:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace.get_tracer("gapless")


class RunSpan:
    """The span of one run; does nothing without OpenTelemetry."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def current(self) -> contextlib.AbstractContextManager[Any]:
        """Make it the parent of what happens in the block."""
        if self._span is None:
            return contextlib.nullcontext()
        from opentelemetry import trace

        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def first_event(self) -> None:
        if self._span is not None:
            self._span.add_event("gapless.first_event")

    def end(self, events: int, failure: GaplessError | None) -> None:
        """`failure` by its code: messages of errors may hold what people wrote."""
        if self._span is None:
            return
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("gapless.events", events)
        if failure is not None:
            self._span.set_attribute("error.type", failure.code)
            self._span.set_status(Status(StatusCode.ERROR, failure.code))
        self._span.end()


def run_span(record: RunRecord) -> RunSpan:
    """Begin the span of a run."""
    tracer = _tracer()
    if tracer is None:
        return RunSpan(None)
    attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": record.agent,
        "gen_ai.conversation.id": record.session_id,
        "gapless.run.id": record.id,
    }
    span = tracer.start_span(f"invoke_agent {record.agent}", attributes=attributes)
    return RunSpan(span if span.get_span_context().is_valid else None)  # else nobody has set anything up
