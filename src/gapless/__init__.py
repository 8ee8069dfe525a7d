"""Gapless: stream AI-agent responses over Server-Sent Events without a gap.

    runner = Runner(agent, store="sqlite:///gapless.db")
    async for event in runner.run_async("Explain SSE"):
        ...

Names are imported at their first use, so that `import gapless` stays small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapless.agents.base import Agent, AgentItem, RunContext, call_key, current_run
    from gapless.agents.replaying import replays
    from gapless.aggregator import StreamingResponseAggregator
    from gapless.client import ClientLimits, GaplessClient, SyncClient, durable_transport
    from gapless.config import ClientConfig, ConnectionLimits, Limits, RunConfig, StreamingMode
    from gapless.errors import GaplessError
    from gapless.events import (
        ActivityDeltaEvent,
        ActivitySnapshotEvent,
        AssistantMessage,
        CustomEvent,
        Event,
        Interrupt,
        Message,
        MessagesSnapshotEvent,
        RawEvent,
        ReasoningEncryptedValueEvent,
        ReasoningEndEvent,
        ReasoningMessageChunkEvent,
        ReasoningMessageContentEvent,
        ReasoningMessageEndEvent,
        ReasoningMessageStartEvent,
        ReasoningStartEvent,
        ResumeEntry,
        RunErrorEvent,
        RunFinishedEvent,
        RunFinishedInterruptOutcome,
        RunStartedEvent,
        StateDeltaEvent,
        StateSnapshotEvent,
        StepFinishedEvent,
        StepStartedEvent,
        SubagentErrorEvent,
        SubagentFinishedEvent,
        SubagentStartedEvent,
        TextMessageChunkEvent,
        TextMessageContentEvent,
        TextMessageEndEvent,
        TextMessageStartEvent,
        ToolCallArgsEvent,
        ToolCallChunkEvent,
        ToolCallEndEvent,
        ToolCallResultEvent,
        ToolCallStartEvent,
        UserMessage,
        text_of,
    )
    from gapless.live import LiveRequest, LiveRequestQueue
    from gapless.notify import NoticeRecord, NotifyConfig, Webhook
    from gapless.progress import Progress
    from gapless.records import RunRecord, RunStatus, SessionRecord, Turn
    from gapless.runs.run import Response, Run
    from gapless.runs.run_stream import RunStream
    from gapless.runs.runner import Runner
    from gapless.server import create_app
    from gapless.settings import CLIENT_SETTINGS

__version__ = "0.1.0"

_MODULES = {
    "CLIENT_SETTINGS": "settings",
    "Agent": "agents.base",
    "AgentItem": "agents.base",
    "ClientConfig": "config",
    "ClientLimits": "client",
    "ConnectionLimits": "config",
    "GaplessClient": "client",
    "GaplessError": "errors",
    "Limits": "config",
    "LiveRequest": "live",
    "LiveRequestQueue": "live",
    "NoticeRecord": "notify",
    "NotifyConfig": "notify",
    "Progress": "progress",
    "Response": "runs.run",
    "Run": "runs.run",
    "RunConfig": "config",
    "RunContext": "agents.base",
    "RunRecord": "records",
    "RunStatus": "records",
    "RunStream": "runs.run_stream",
    "Runner": "runs.runner",
    "SessionRecord": "records",
    "StreamingMode": "config",
    "StreamingResponseAggregator": "aggregator",
    "SyncClient": "client",
    "Turn": "records",
    "Webhook": "notify",
    "call_key": "agents.base",
    "create_app": "server",
    "current_run": "agents.base",
    "durable_transport": "client",
    "replays": "agents.replaying",
}
"""Where the names are that are not in `gapless.events`."""

__all__ = [
    "CLIENT_SETTINGS",
    "ActivityDeltaEvent",
    "ActivitySnapshotEvent",
    "Agent",
    "AgentItem",
    "AssistantMessage",
    "ClientConfig",
    "ClientLimits",
    "ConnectionLimits",
    "CustomEvent",
    "Event",
    "GaplessClient",
    "GaplessError",
    "Interrupt",
    "Limits",
    "LiveRequest",
    "LiveRequestQueue",
    "Message",
    "MessagesSnapshotEvent",
    "NoticeRecord",
    "NotifyConfig",
    "Progress",
    "RawEvent",
    "ReasoningEncryptedValueEvent",
    "ReasoningEndEvent",
    "ReasoningMessageChunkEvent",
    "ReasoningMessageContentEvent",
    "ReasoningMessageEndEvent",
    "ReasoningMessageStartEvent",
    "ReasoningStartEvent",
    "Response",
    "ResumeEntry",
    "Run",
    "RunConfig",
    "RunContext",
    "RunErrorEvent",
    "RunFinishedEvent",
    "RunFinishedInterruptOutcome",
    "RunRecord",
    "RunStartedEvent",
    "RunStatus",
    "RunStream",
    "Runner",
    "SessionRecord",
    "StateDeltaEvent",
    "StateSnapshotEvent",
    "StepFinishedEvent",
    "StepStartedEvent",
    "StreamingMode",
    "StreamingResponseAggregator",
    "SubagentErrorEvent",
    "SubagentFinishedEvent",
    "SubagentStartedEvent",
    "SyncClient",
    "TextMessageChunkEvent",
    "TextMessageContentEvent",
    "TextMessageEndEvent",
    "TextMessageStartEvent",
    "ToolCallArgsEvent",
    "ToolCallChunkEvent",
    "ToolCallEndEvent",
    "ToolCallResultEvent",
    "ToolCallStartEvent",
    "Turn",
    "UserMessage",
    "Webhook",
    "call_key",
    "create_app",
    "current_run",
    "durable_transport",
    "replays",
    "text_of",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gapless' has no attribute {name!r}")
    module = importlib.import_module(f"gapless.{_MODULES.get(name, 'events')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
