"""`/push…`: browsers that want to be told of their user's runs."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.errors import PushUnavailable
from gapless.http.answers import json_response, read_body
from gapless.http.openapi import body_docs
from gapless.http.routes import DirectRoute
from gapless.protocols.starting import ClientRoutes
from gapless.runs.push import Push, PushSubscription

__all__ = ["PushRoutes"]

BODY_BYTES_MAX = 8 * 1024


class Unsubscribe(msgspec.Struct):
    """The body of `DELETE /push/subscriptions`: the subscription, or its `endpoint` alone."""

    endpoint: str


class PushRoutes(ClientRoutes):
    """`/push/key` and `/push/subscriptions`, each for the caller's own browsers."""

    def router(self) -> APIRouter:
        router = APIRouter(tags=["push"], route_class=DirectRoute)
        router.get("/push/key")(self.key)
        subscribed, unsubscribed = body_docs(PushSubscription), body_docs(Unsubscribe)
        router.put("/push/subscriptions", status_code=204, openapi_extra=subscribed)(self.subscribe)
        router.delete("/push/subscriptions", status_code=204, openapi_extra=unsubscribed)(self.unsubscribe)
        return router

    async def key(self, request: Request) -> Response:
        """Show the server's public key, which a browser subscribes with (`applicationServerKey`). 404 where the server
        tells no browsers."""
        await self.access.user(request)
        return json_response({"key": self._push.public_key})

    async def subscribe(self, request: Request) -> Response:
        """Tell a browser of the caller's runs from now on: when one waits for an answer, has finished or has failed.
        The body is a `PushSubscription` as the browser gives it. It may be sent again, and should be whenever the
        browser is used: one that another user subscribes is theirs then, and of one user's the ten used last are told.
        """
        user = await self.access.user(request)
        await self._push.keep(user, await read_body(request, PushSubscription, BODY_BYTES_MAX))
        return Response(status_code=204)

    async def unsubscribe(self, request: Request) -> Response:
        """Tell a browser of the caller's no more, by the `endpoint` of its subscription. One that is told nothing
        anyway is no error."""
        user = await self.access.user(request)
        await self._push.drop(user, (await read_body(request, Unsubscribe, BODY_BYTES_MAX)).endpoint)
        return Response(status_code=204)

    @property
    def _push(self) -> Push:
        push = self.runner.worker.deliveries.push
        if push is None:
            raise PushUnavailable("this server tells no browsers of runs; its operator can give it a key for that")
        return push
