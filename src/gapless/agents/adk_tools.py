"""The tools of ADK agents that run, and what was cancelled in them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gapless.agents.failing import tool_failure

__all__ = ["Tools"]


class Tools:
    """Knows which tools run in a run, and what was cancelled from inside, with nothing after it.

    ADK takes it for the end of the whole invocation when a tool, a callback or a model raises `CancelledError` by
    itself, and ends it as if all were well."""

    def __init__(self) -> None:
        self.running: dict[tuple[str, str | None], str] = {}
        """Names, by invocation and call."""
        self._cancelled: tuple[str | None, BaseException] | None = None
        """The tool's name, if it was one, and the error."""
        self._cancelled_at = 0.0

    def begins(self, name: str, context: Any) -> None:
        """Note that a call is made."""
        self.running[context.invocation_id, context.function_call_id] = name

    def ends(self, context: Any, error: BaseException | None = None) -> None:
        """Note that a call has returned or raised."""
        name = self.running.pop((context.invocation_id, context.function_call_id), None)
        if name is not None and isinstance(error, asyncio.CancelledError):
            self.note(error, name)

    def note(self, error: BaseException, name: str | None = None) -> None:
        """Note that the tool of this `name`, or a task of the run, was cancelled from inside. What the tool has raised
        comes out of the tasks that it runs in too."""
        if name is None and self._cancelled is not None:
            name = self._cancelled[0]
        self._cancelled, self._cancelled_at = (name, error), time.time()

    def goes_on(self, event: Any) -> None:
        """Note an event of ADK's: one that was made after the cancel is of an agent that has gone on."""
        if self._cancelled is not None and event.timestamp >= self._cancelled_at:
            self._cancelled = None

    def raise_cancelled(self, run_id: str) -> None:
        """Raise what has cancelled the run `run_id` from inside, if anything has; the tool's failure where it was a
        tool's."""
        if self._cancelled is None:
            return
        (name, error), self._cancelled = self._cancelled, None
        try:
            if name is None:
                raise error
            raise tool_failure(error, run_id, [name]) from error
        finally:
            del error  # it refers to this frame

    def forget(self) -> None:
        """Let go of what was raised, which refers to where it was."""
        self._cancelled = None
