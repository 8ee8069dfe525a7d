"""Gapless, as a user's program would make it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench import agents
from gapless import Runner
from gapless.server import create_app

AGENTS = {
    "generator": lambda: agents.generator_agent,
    "pydantic-ai": agents.pydantic_ai_agent,
    "adk": agents.adk_agent,
}


def build(options: Mapping[str, str]) -> Any:
    """`options`: `agent` (a key of `AGENTS`) and `store` (`memory` or a URL)."""
    return create_app(Runner(AGENTS[options["agent"]](), store=options["store"]))
