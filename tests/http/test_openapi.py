"""OpenAPI's description of what the routes read by themselves."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import httpx2
import pytest


async def test_the_api_description_refers_to_nothing_that_it_lacks(client: httpx2.AsyncClient) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # FastAPI's, of two routes of one name
        description: dict[str, Any] = (await client.get("/openapi.json")).json()
    known = description["components"]["schemas"]
    referred = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(description))
    assert [name for name in referred if name not in known] == []
    body = description["paths"]["/runs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"message", "run_id", "config"} <= body["properties"].keys()


RESUME = {"Last-Event-ID", "after"}


STARTING = {"run_id", "X-Run-Id", "Idempotency-Key", "X-Notify"}


@pytest.mark.parametrize(
    ("method", "path", "names"),
    [
        ("post", "/runs", {"Accept", "wire", "merge", *STARTING, *RESUME}),
        ("get", "/runs", {"session_id", "status", "agent", "since", "until", "error", "user_id", "limit", "after"}),
        ("get", "/runs/{run_id}/events", {"run_id", "Accept", "wire", "merge", "limit", *RESUME}),
        ("get", "/chat/stream", {"query", "message", "agent", "session_id", *STARTING, *RESUME}),
        ("get", "/ag-ui", {"runId", "threadId", "join", "offset", "protocolVersion", *RESUME}),
        ("post", "/vercel/chat", {"agent", *STARTING, *RESUME}),
        ("post", "/v1/chat/completions", {*STARTING, "merge", *RESUME}),
        ("get", "/v1/responses/{response_id}", {"response_id", "stream", "starting_after", "merge", *RESUME}),
        ("post", "/run_sse", {*STARTING, "merge", *RESUME}),
    ],
)
async def test_the_api_description_names_what_routes_read(
    client: httpx2.AsyncClient, method: str, path: str, names: set[str]
) -> None:
    operation = (await client.get("/openapi.json")).json()["paths"][path][method]
    assert {parameter["name"] for parameter in operation["parameters"]} == names
    assert all(parameter["schema"] for parameter in operation["parameters"])


async def test_openapi_describes_the_bodies(client: httpx2.AsyncClient):
    spec = (await client.get("/openapi.json")).json()
    body = spec["paths"]["/runs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "message" in body["properties"]
    assert (await client.get("/docs")).status_code == 200
