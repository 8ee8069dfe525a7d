"""Pydantic AI's own adapters: the Vercel AI stream at `/vercel`, AG-UI at `/ag-ui`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_ai.ui.ag_ui import AGUIAdapter
from pydantic_ai.ui.vercel_ai import VercelAIAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.agents import pydantic_ai_agent


def build(_options: Mapping[str, str]) -> Any:
    agent = pydantic_ai_agent()

    async def vercel(request: Request) -> Response:
        return await VercelAIAdapter.dispatch_request(request, agent=agent, sdk_version=6)

    async def ag_ui(request: Request) -> Response:
        return await AGUIAdapter.dispatch_request(request, agent=agent)

    return Starlette(
        routes=[Route("/vercel", vercel, methods=["POST"]), Route("/ag-ui", ag_ui, methods=["POST"])],
    )
