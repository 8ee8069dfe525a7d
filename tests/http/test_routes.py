"""Routes whose endpoints read their requests themselves."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.http.routes import DirectRoute


def test_what_only_fastapi_reads_is_refused_when_the_route_is_made():
    router = APIRouter(route_class=DirectRoute)

    async def number(request: Request, name: int) -> Response:
        raise NotImplementedError

    async def query(request: Request, name: str, after: str = "") -> Response:
        raise NotImplementedError

    async def text(request: Request, name: str) -> Response:
        raise NotImplementedError

    router.get("/{name}")(text)
    for endpoint in (number, query):
        with pytest.raises(AssertionError, match="has FastAPI read"):
            router.get("/{name}")(endpoint)
