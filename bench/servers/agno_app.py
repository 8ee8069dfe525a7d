"""Agno's own server, AgentOS: its event stream at `/agents/scripted/runs`, as it comes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ["AGNO_TELEMETRY"] = "false"

from agno.os import AgentOS

from bench.agents import agno_agent


def build(_options: Mapping[str, str]) -> Any:
    return AgentOS(agents=[agno_agent()], telemetry=False).get_app()
