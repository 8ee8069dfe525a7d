"""A span per run, parent of what the agent does."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gapless import Runner
from gapless.errors import AgentFailed
from gapless.runs import tracing


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("gapless"))
    return exporter


async def test_a_runs_span_and_its_children(spans: InMemorySpanExporter):
    async def agent(message: str) -> AsyncIterator[str]:
        yield "a"
        with trace.get_tracer_provider().get_tracer("other").start_as_current_span("child"):
            parents.append(trace.get_current_span(None).get_span_context().trace_id)
            yield "b"

    parents: list[int] = []
    async with Runner(agent) as runner:
        await (await runner.start("a secret", session_id="s", run_id="r")).collect()
    (span,) = spans.get_finished_spans()
    assert span.name == "invoke_agent agent"
    assert span.attributes is not None
    assert span.attributes["gapless.run.id"] == "r"
    assert span.attributes["gen_ai.conversation.id"] == "s"
    assert span.attributes["gapless.events"] == 6
    assert [event.name for event in span.events] == ["gapless.first_event"]
    assert parents == [span.context.trace_id]
    assert "secret" not in span.to_json()


async def test_a_failed_runs_span_says_the_code_and_not_the_text(spans: InMemorySpanExporter):
    async def agent(message: str) -> AsyncIterator[str]:
        raise ValueError("a secret")
        yield ""

    async with Runner(agent) as runner:
        with pytest.raises(AgentFailed):
            await (await runner.start("x")).collect()
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "agent_failed"
    assert "secret" not in span.to_json()


async def test_without_opentelemetrys_api_nothing_happens(monkeypatch: pytest.MonkeyPatch):
    """Other packages of that name, such as its protocol's, are not the API."""
    monkeypatch.delattr("opentelemetry.trace")
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    tracing._tracer.cache_clear()

    async def agent(message: str) -> str:
        return "x"

    async with Runner(agent) as runner:
        assert (await (await runner.start("x")).collect()).text == "x"
    tracing._tracer.cache_clear()
