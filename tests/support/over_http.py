"""Runs over HTTP: started, and read to their ends."""

from __future__ import annotations

from typing import Any

import httpx2

STREAM = {"accept": "text/event-stream"}


async def start(client: httpx2.AsyncClient, message: str = "hi", **body: Any) -> dict[str, Any]:
    response = await client.post("/runs", json={"message": message, **body})
    assert response.status_code == 202, response.text
    return response.json()  # type: ignore[no-any-return]  # a record


async def ended(client: httpx2.AsyncClient, run_id: str) -> dict[str, Any]:
    await client.get(f"/runs/{run_id}/events", headers=STREAM)
    return (await client.get(f"/runs/{run_id}")).json()  # type: ignore[no-any-return]  # a record
