"""ADK's own server with its sessions in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from google.adk.agents import BaseAgent
from google.adk.cli.fast_api import get_fast_api_app
from google.adk.cli.utils.base_agent_loader import BaseAgentLoader

from bench.agents import adk_agent


class OneAgent(BaseAgentLoader):
    def __init__(self) -> None:
        self._agent = adk_agent()

    def load_agent(self, agent_name: str) -> BaseAgent:
        return self._agent

    def list_agents(self) -> list[str]:
        return [self._agent.name]


def build(_options: Mapping[str, str]) -> Any:
    return get_fast_api_app(
        agents_dir=tempfile.mkdtemp(prefix="bench-adk-"),
        agent_loader=OneAgent(),
        session_service_uri="memory://",
        artifact_service_uri="memory://",
        memory_service_uri="memory://",
        use_local_storage=False,
        web=False,
        auto_create_session=True,
    )
