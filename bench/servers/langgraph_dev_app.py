"""The server in memory that `langgraph dev` starts, with what it sets in the environment.

Runs beside each other are as many as the load has, and calls that block are not looked for, which costs less.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from bench.agents import langgraph_agent

JOBS = 1000
ENVIRONMENT = {
    "ALLOW_PRIVATE_NETWORK": "true",
    "DATABASE_URI": ":memory:",
    "LANGGRAPH_ALLOW_BLOCKING": "true",
    "LANGGRAPH_API_URL": "http://127.0.0.1",
    "LANGGRAPH_DISABLE_FILE_PERSISTENCE": "true",
    "LANGGRAPH_RUNTIME_EDITION": "inmem",
    "LANGSERVE_GRAPHS": json.dumps({"scripted": f"{__name__}:graph"}),
    "LANGSMITH_LANGGRAPH_API_VARIANT": "local_dev",
    "LANGSMITH_TRACING": "false",
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LOG_LEVEL": "ERROR",
    "MIGRATIONS_PATH": "__inmem",
    "N_JOBS_PER_WORKER": str(JOBS),
    "REDIS_URI": "fake",
}

graph = langgraph_agent()


def build(_options: Mapping[str, str]) -> Any:
    os.environ.update(ENVIRONMENT)
    from langgraph_api.server import app

    return app
