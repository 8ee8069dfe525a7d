"""What the routes share."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx2


async def test_the_api_description_refers_to_nothing_that_it_lacks(client: httpx2.AsyncClient) -> None:
    description: dict[str, Any] = (await client.get("/openapi.json")).json()
    known = description["components"]["schemas"]
    referred = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(description))
    assert [name for name in referred if name not in known] == []
    body = description["paths"]["/runs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"message", "run_id", "config"} <= body["properties"].keys()
