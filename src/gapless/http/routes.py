"""Routes whose endpoints read their requests themselves."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

__all__ = ["DirectRoute"]


class DirectRoute(APIRoute):
    """Calls its endpoint with the request and the parts of its path, and nothing of FastAPI's between: there are no
    dependencies to solve, no body to decode and no result to encode, and to find that out took as long as the rest."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        asked = self.dependant
        left: list[object] = [*asked.query_params, *asked.header_params, *asked.cookie_params, *asked.body_params]
        left += [part for part in asked.path_params if part.field_info.annotation is not str]
        left += asked.dependencies
        assert not left, f"{self.path} has FastAPI read what is not text of its path"
        handle = self.get_route_handler()

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            """As Starlette's `request_response`, but for errors: they are the app's to answer, around this."""
            response = await handle(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = answer

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        endpoint, own = self.endpoint, self.param_convertors.keys()

        async def handle(request: Request) -> Response:
            found = request.path_params
            if found.keys() != own:  # those of where the app is mounted are there, too
                found = {name: found[name] for name in own}
            answer: Response = await endpoint(request=request, **found)
            return answer

        return handle
