"""The AG-UI adapter that its makers have for LangGraph, as it comes, at `/ag-ui`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ag_ui_langgraph import LangGraphAgent, add_langgraph_fastapi_endpoint
from fastapi import FastAPI
from langgraph.checkpoint.memory import InMemorySaver

from bench.agents import langgraph_agent


def build(_options: Mapping[str, str]) -> Any:
    app = FastAPI()
    graph = langgraph_agent().copy(update={"checkpointer": InMemorySaver()})  # it reads the thread's state
    add_langgraph_fastapi_endpoint(app, LangGraphAgent(name="scripted", graph=graph), "/ag-ui")
    return app
