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
    from gapless.agents.base import RunContext
    from gapless.aggregator import StreamingResponseAggregator
    from gapless.client.client import GaplessClient, SyncClient
    from gapless.config import Limits, RunConfig, StreamingMode
    from gapless.errors import GaplessError
    from gapless.live import LiveRequest, LiveRequestQueue
    from gapless.progress import Progress
    from gapless.runs.run import Response, Run, RunStream
    from gapless.runs.runner import Runner
    from gapless.server import create_app

__version__ = "0.1.0"

_MODULES = {
    "GaplessClient": "client",
    "GaplessError": "errors",
    "Limits": "config",
    "LiveRequest": "live",
    "LiveRequestQueue": "live",
    "Progress": "progress",
    "Response": "runs.run",
    "Run": "runs.run",
    "RunConfig": "config",
    "RunContext": "agents.base",
    "RunStream": "runs.run",
    "Runner": "runs.runner",
    "StreamingMode": "config",
    "StreamingResponseAggregator": "aggregator",
    "SyncClient": "client",
    "create_app": "server",
}

__all__ = [
    "GaplessClient",
    "GaplessError",
    "Limits",
    "LiveRequest",
    "LiveRequestQueue",
    "Progress",
    "Response",
    "Run",
    "RunConfig",
    "RunContext",
    "RunStream",
    "Runner",
    "StreamingMode",
    "StreamingResponseAggregator",
    "SyncClient",
    "create_app",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'gapless' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gapless.{module}"), name)
    globals()[name] = value
    return value
