"""Gapless, as `gapless serve` makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench import agents
from gapless import Runner
from gapless.cli.listen import collect_garbage_rarely
from gapless.server import create_app


def agno() -> Any:
    """Agno's agent by its own stream, as the documents have it."""
    from examples.agno_agent import of_agno

    return of_agno(agents.agno_agent())


AGENTS: dict[str, Callable[[], Any]] = {
    "generator": lambda: agents.generator_agent,
    "pydantic-ai": agents.pydantic_ai_agent,
    "adk": agents.adk_agent,
    "langgraph": agents.langgraph_agent,
    "openai-agents": agents.openai_agents_agent,
    "agno": agno,
    "writer": lambda: agents.writer_agent,
}


def build(options: Mapping[str, str]) -> Any:
    """`options`: `agent` (a key of `AGENTS`), `store` (`memory` or a URL), and `operator` (a user), if there is one."""
    operators = [options["operator"]] if "operator" in options else []
    app = create_app(Runner(AGENTS[options["agent"]](), store=options["store"]), operators=operators)
    collect_garbage_rarely()  # as `gapless serve` does
    return app
