"""Scripted agents whose pace the test sets: nothing here sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gapless.agents.base import AgentItem, RunContext
from gapless.testing import Gate, ScriptedAgent


class Gated(ScriptedAgent):
    """Yields its items one by one, each when the test lets it, and ends when it lets it once more."""

    def __init__(self, *items: AgentItem) -> None:
        self._gate = Gate()
        super().__init__(*(one for item in items for one in (self._gate, item)), self._gate, name="gated")
        self.items = items
        self.started = asyncio.Event()
        self.stopped = asyncio.Event()
        self.let = self._gate.let

    async def waits_for(self, position: int) -> None:
        """Until it has yielded `position` items and waits to be let on."""
        await self._gate.reached(position + 1)

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        self.started.set()
        said = super().run(ctx)
        try:
            async for item in said:
                yield item
        finally:
            await said.aclose()  # type: ignore[attr-defined]  # an async generator
            self.stopped.set()
