"""`/metrics`: what this worker has counted or, with several workers, what they all have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless import metrics
from gapless.protocols.starting import ClientRoutes
from gapless.runs.runner import Runner

__all__ = ["MetricRoutes", "published"]

PUBLISH_EVERY_S = 1.0
"""What a worker counts is seen through the others this much later, and lost if it is killed meanwhile."""


class MetricRoutes(ClientRoutes):
    """`/metrics`."""

    def router(self) -> APIRouter:
        router = APIRouter(tags=["probes"])
        router.get("/metrics")(self.show)
        return router

    async def show(self, request: Request) -> Response:
        """Show the counts in Prometheus' text format, of all workers of this server."""
        await self.access.user(request)
        _count_active(self.runner)
        text, content_type = self.runner.metrics.exposition()
        return Response(text, media_type=content_type)


@contextlib.asynccontextmanager
async def published(runner: Runner) -> AsyncIterator[None]:
    """While it is open, the other workers know what this one counts, and after it what it has counted."""
    if not metrics.shared():
        yield
        return

    async def publish() -> None:
        while True:
            _count_active(runner)
            with contextlib.suppress(OSError):  # a full disk: it is added the next time
                runner.metrics.publish()
            await asyncio.sleep(PUBLISH_EVERY_S)

    publishing = asyncio.create_task(publish(), name="gapless-metrics")
    try:
        yield
    finally:
        publishing.cancel()
        _count_active(runner)
        with contextlib.suppress(OSError):
            runner.metrics.publish()


def _count_active(runner: Runner) -> None:
    runner.metrics.runs_active = len(runner.executions)
