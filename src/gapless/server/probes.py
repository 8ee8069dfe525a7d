"""Whether the process answers, and whether it takes new runs."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from gapless.errors import StoreUnavailable
from gapless.http.answers import json_response
from gapless.protocols.starting import ClientRoutes

__all__ = ["ProbeRoutes"]


class ProbeRoutes(ClientRoutes):
    """`/health` and `/ready`, also for balancers and monitors that ask with HEAD. Who asks is not asked."""

    def router(self) -> APIRouter:
        router = APIRouter(tags=["probes"])
        for path, probe in (("/health", self.health), ("/ready", self.ready)):
            router.head(path, include_in_schema=False)(probe)
            router.get(path)(probe)
        return router

    async def health(self) -> Response:
        """Say that the process answers."""
        return json_response({"status": "ok"})

    async def ready(self) -> Response:
        """New runs are taken: the store answers and takes events, and the worker is not stopping."""
        if self.runner.draining or self.streams.draining:
            return json_response({"status": "draining"}, 503)
        if self.runner.failing:
            raise StoreUnavailable("the store takes nothing at the moment", retry_after_s=1)
        await self.runner.list_runs(limit=1)
        return json_response({"status": "ready"})
