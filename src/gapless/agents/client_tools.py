"""Tools that the client of a run brings along and executes itself. For adapters: the agent may call them, its run ends
with their calls, and the client's next run brings what they came to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gapless.agents.base import RunContext
from gapless.events import RunFinishedEvent, RunFinishedSuccessOutcome, Tool

__all__ = ["as_function", "left_to_client", "schema_of"]


def schema_of(tool: Tool) -> dict[str, Any]:
    """Return the JSON Schema of what `tool` takes, which services want of one without arguments too."""
    schema: dict[str, Any] = tool.parameters or {"type": "object", "properties": {}}
    return schema


def as_function(tool: Tool) -> dict[str, Any]:
    """Return `tool` as chat completions has it (OpenAI API reference, `tools`)."""
    function = {"name": tool.name, "description": tool.description, "parameters": schema_of(tool)}
    return {"type": "function", "function": function}


def left_to_client(ctx: RunContext, call_ids: Iterable[str]) -> RunFinishedEvent:
    """Return what ends the run `ctx` with the calls `call_ids` of the client's tools open."""
    outcome = RunFinishedSuccessOutcome(pending_tool_call_ids=list(call_ids))
    return RunFinishedEvent(thread_id=ctx.session_id, run_id=ctx.run_id, outcome=outcome)
