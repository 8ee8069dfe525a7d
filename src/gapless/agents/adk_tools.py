"""The tools of ADK agents that run, and those that were cancelled."""

from __future__ import annotations

import asyncio
import time
from typing import Any

__all__ = ["Tools"]


class Tools:
    """Knows which tools run in a run, and which was cancelled last with nothing after it.

    ADK takes it for the end of the whole invocation when a tool raises `CancelledError` by itself, and ends it as if
    all were well."""

    def __init__(self) -> None:
        self.running: dict[tuple[str, str | None], str] = {}
        """Names, by invocation and call."""
        self.cancelled: tuple[str, BaseException] | None = None
        self._cancelled_at = 0.0

    def begins(self, name: str, context: Any) -> None:
        """Note that a call is made."""
        self.running[context.invocation_id, context.function_call_id] = name

    def ends(self, context: Any, error: BaseException | None = None) -> None:
        """Note that a call has returned or raised."""
        name = self.running.pop((context.invocation_id, context.function_call_id), None)
        if name is not None and isinstance(error, asyncio.CancelledError):
            self.cancelled, self._cancelled_at = (name, error), time.time()

    def goes_on(self, event: Any) -> None:
        """Note an event of ADK's: one that was made after a tool was cancelled is of an agent that has gone on."""
        if self.cancelled is not None and event.timestamp >= self._cancelled_at:
            self.cancelled = None
