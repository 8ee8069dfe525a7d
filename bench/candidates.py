"""Who is measured: one line each."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Candidate:
    name: str
    label: str
    agent: str
    protocol: str
    module: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """The agent with nobody listening: measured in its own process, without a server."""
        return not self.module

    @property
    def gapless(self) -> bool:
        return self.module == "gapless_app"

    @property
    def store(self) -> str:
        return self.options.get("store", "")


def _gapless(agent: str, store: str, label: str) -> Candidate:
    prefix = "" if agent == "generator" else f"{agent}-"
    options = {"agent": agent, "store": store}
    return Candidate(f"{prefix}gapless-{store}", label, agent, "gapless", "gapless_app", options)


CANDIDATES = [
    Candidate("generator-alone", "the agent alone", "generator", ""),
    Candidate("asgi", "bare ASGI (the floor)", "generator", "sse", "floor"),
    Candidate("sse-starlette", "sse-starlette", "generator", "sse", "sse_starlette_app"),
    Candidate("durable-streams", "Durable Streams", "generator", "durable-streams", "durable_streams.mjs"),
    Candidate("fastapi", "FastAPI SSE", "generator", "fastapi", "fastapi_sse"),
    _gapless("generator", "memory", "Gapless, memory"),
    _gapless("generator", "sqlite", "Gapless, SQLite"),
    _gapless("generator", "redis", "Gapless, Redis"),
    _gapless("generator", "postgres", "Gapless, PostgreSQL"),
    Candidate("pydantic-ai-alone", "the agent alone", "pydantic-ai", ""),
    Candidate("pydantic-ai-vercel", "its Vercel adapter", "pydantic-ai", "vercel", "pydantic_ai_app"),
    Candidate("pydantic-ai-ag-ui", "its AG-UI adapter", "pydantic-ai", "ag-ui", "pydantic_ai_app"),
    _gapless("pydantic-ai", "memory", "Gapless, memory"),
    _gapless("pydantic-ai", "sqlite", "Gapless, SQLite"),
    _gapless("pydantic-ai", "redis", "Gapless, Redis"),
    Candidate("adk-alone", "the agent alone", "adk", ""),
    Candidate("adk-server", "its own server", "adk", "adk", "adk_app"),
    _gapless("adk", "memory", "Gapless, memory"),
    _gapless("adk", "sqlite", "Gapless, SQLite"),
    _gapless("adk", "redis", "Gapless, Redis"),
    Candidate("langgraph-alone", "the agent alone", "langgraph", ""),
    Candidate("langgraph-ag-ui", "its AG-UI adapter", "langgraph", "ag-ui", "langgraph_ag_ui_app"),
    Candidate("langgraph-dev", "`langgraph dev`", "langgraph", "langgraph", "langgraph_dev_app"),
    _gapless("langgraph", "memory", "Gapless, memory"),
    _gapless("langgraph", "sqlite", "Gapless, SQLite"),
    Candidate("openai-agents-alone", "the agent alone", "openai-agents", ""),
    _gapless("openai-agents", "memory", "Gapless, memory"),
    _gapless("openai-agents", "sqlite", "Gapless, SQLite"),
    Candidate("agno-alone", "the agent alone", "agno", ""),
    Candidate("agno-os", "its own server, AgentOS", "agno", "agno", "agno_app"),
    _gapless("agno", "memory", "Gapless, memory"),
    _gapless("agno", "sqlite", "Gapless, SQLite"),
]
BY_NAME = {candidate.name: candidate for candidate in CANDIDATES}
