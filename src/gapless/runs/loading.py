"""Agents make ready what would hold all their runs up: each once, before its first run here."""

from __future__ import annotations

import asyncio
import logging

from gapless.agents.base import SEE_LOG, Agent, class_and_place
from gapless.errors import AgentFailed, GaplessError, ShuttingDown
from gapless.tasks import end_tasks, retrieve

__all__ = ["Loading"]

READY_MAX = 1_000
"""Agents that are remembered as ready; the oldest is forgotten first, and makes ready again."""

log = logging.getLogger("gapless.runner")


class Loading:
    """Calls `load` of each agent of one worker once, and again where it failed. Who comes meanwhile waits for it."""

    def __init__(self) -> None:
        self._ready: dict[int, object] = {}
        """Whose `load` has returned, by its identity: one with equals, or that has no hash, is itself alone."""
        self._under_way: dict[int, asyncio.Task[None]] = {}

    async def load(self, agent: Agent) -> None:
        """Let the agent make ready, unless it is. Raises what keeps it from being so, `ShuttingDown` where the worker
        is closed meanwhile."""
        if getattr(agent.load, "__func__", None) is Agent.load:
            return  # as nearly all: it has nothing to make ready
        owner = getattr(agent.load, "__self__", agent)  # an object that is given with each run is adapted each time
        if id(owner) in self._ready:
            return
        task = self._under_way.get(id(owner))
        if task is None:
            task = asyncio.create_task(self._load(agent, owner), name=f"gapless-load-{agent.name}")
            task.add_done_callback(retrieve)  # all who wait for it may be gone
            task.add_done_callback(lambda _: self._under_way.pop(id(owner)))
            self._under_way[id(owner)] = task
        await asyncio.wait({task})  # which goes on where this is cancelled: others wait for it too
        if task.cancelled():
            raise ShuttingDown("this worker is stopping; try again, another one will answer", retry_after_s=1)
        task.result()

    async def load_for_run(self, agent: Agent) -> None:
        """Let the agent make ready for who starts a run. Raises a `GaplessError`, `AgentFailed` for what is none."""
        try:
            await self.load(agent)
        except GaplessError:
            raise
        except Exception as error:
            log.error("agent %s is not ready: it raised %s", agent.name, class_and_place(error))
            log.debug("agent %s", agent.name, exc_info=error)
            what = f"agent {agent.name} is not ready: it raised {type(error).__name__}{SEE_LOG}"
            raise AgentFailed(what) from error

    async def _load(self, agent: Agent, owner: object) -> None:
        await agent.load()
        self._ready[id(owner)] = owner
        if len(self._ready) > READY_MAX:
            del self._ready[next(iter(self._ready))]

    async def close(self) -> None:
        """Stop what is under way, and forget who is ready: agents release what they hold. Idempotent."""
        await end_tasks(list(self._under_way.values()))
        self._ready.clear()
