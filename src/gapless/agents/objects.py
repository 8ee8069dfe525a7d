"""An object as an agent that does not derive from `Agent`: it has a `name` and `run(ctx)`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

from gapless.agents.base import Agent, AgentItem, RunContext

__all__ = ["ObjectAgent", "Runnable", "speaks_ag_ui"]

INPUT = "RunAgentInput"
"""What an object takes that speaks AG-UI."""

_DUTIES = ("live", "load", "aclose", "use_session_service", "session_state", "update_state")


@runtime_checkable
class Runnable(Protocol):
    """The least that an agent must have."""

    name: str

    def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]: ...


class ObjectAgent(Agent):
    """Adapts one such object. Of an agent's other duties it does those that it has; for the rest, the defaults hold."""

    def __init__(self, target: Runnable) -> None:
        self.name = target.name
        self._target = target
        for duty in _DUTIES:
            if hasattr(target, duty):
                setattr(self, duty, getattr(target, duty))

    def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        return self._target.run(ctx)


def speaks_ag_ui(agent: object) -> bool:
    """Return whether `agent` is such an object: its `run` says that it takes `RunAgentInput`."""
    run = getattr(agent, "run", None)
    if not callable(run):
        return False
    try:
        parameters = [*inspect.signature(run).parameters.values()]
    except (TypeError, ValueError):
        return False
    annotation = parameters[0].annotation if parameters else None
    return INPUT in (annotation if isinstance(annotation, str) else getattr(annotation, "__name__", ""))
