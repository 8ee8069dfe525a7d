"""The ASGI app: all routes over one runner."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from gapless.errors import GaplessError, StoreUnavailable
from gapless.http.answers import answer, answer_error
from gapless.http.auth import Access, Authenticate, Authorize, Guard
from gapless.http.stream import DEFERRED, EventStream, Streams
from gapless.protocols.adk import routes as adk
from gapless.protocols.adk.web import serve_adk_web
from gapless.protocols.ag_ui import routes as agui
from gapless.protocols.openai import routes as openai
from gapless.protocols.text import routes as chat
from gapless.protocols.vercel import routes as vercel
from gapless.runs.runner import Runner
from gapless.runs.worker import DRAIN_S
from gapless.server import live, metrics, runs, sessions

__all__ = ["create_app"]

PAGE = Path(__file__).parent / "page"
_FOLDERS: list[str | tuple[str, str]] = [("gapless.server", PAGE.name), ("gapless.server", "gapless-client")]
"""What `/static` serves: the page, and the npm package, which pages import from there, this one and others."""
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def create_app(
    runner: Runner,
    *,
    authenticate: Authenticate | None = None,
    authorize: Authorize | None = None,
    cors_origins: Sequence[str] = (),
    allowed_hosts: Sequence[str] | None = None,
    drain_s: float = DRAIN_S,
    adk_web: bool = False,
) -> FastAPI:
    """Make the whole HTTP surface over `runner`, as an app of its own or to be mounted in another:
    `app.mount("/agents", create_app(runner))`.

    Args:
        runner: What runs the agents; the app opens it, and drains and closes it at shutdown.
        authenticate: Takes a request and returns its user's id (or None); without it the keys of `GAPLESS_API_KEYS` are
            used, and without those everyone is one anonymous user.
        authorize: Decides on every use of a run or session; by default they are their user's.
        cors_origins: Web origins that may call from a browser.
        allowed_hosts: Names that the server may be called by; None for any.
        drain_s: Seconds that runs get to finish at shutdown.
        adk_web: Serve ADK's own web page too, at `/dev-ui/`; raises `ExtraMissing` without the `adk` extra.
    """
    access = Access(authenticate, authorize)
    streams = Streams()

    @contextlib.asynccontextmanager
    async def lifespan(app: _App) -> AsyncIterator[None]:
        app.first_request = None
        async with metrics.published(runner):
            await runner.open()
            await runner.load()
            undo = _at_sigterm(runner, streams.drain)
            try:
                yield
            finally:
                undo()
            streams.drain()
            await runner.close(drain_s)

    middleware = [
        Middleware(
            Guard,
            hosts=None if allowed_hosts is None else frozenset(allowed_hosts),
            origins=frozenset(cors_origins),
            answer=answer_error,
        )
    ]
    if cors_origins:
        cors: Any = Middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # the clients of five families send headers of their own
            expose_headers=["content-location", "location", "x-run-id"],
        )
        middleware.insert(0, cors)
    app = _App(
        title="Gapless",
        description="Runs agents and serves their journals to any client, from any position.",
        lifespan=lifespan,
        middleware=middleware,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
    )
    app.streams_inside = bool(cors_origins)
    app.first_request = functools.partial(_close_at_sigterm, streams, runner)
    app.state.runner, app.state.streams, app.state.access = runner, streams, access
    app.include_router(runs.routes(runner, streams, access))
    app.include_router(sessions.routes(runner, access))
    app.include_router(chat.routes(runner, streams, access))
    app.include_router(agui.routes(runner, streams, access))
    app.include_router(vercel.routes(runner, streams, access))
    app.include_router(openai.routes(runner, streams, access))
    app.include_router(adk.routes(runner, streams, access))
    app.include_router(live.routes(runner, streams, access))
    app.include_router(metrics.routes(runner, access))
    if adk_web:
        serve_adk_web(app)

    @app.head("/health", include_in_schema=False)  # what some balancers and monitors ask with
    @app.get("/health", tags=["probes"])
    async def health() -> Response:
        """The process answers."""
        return answer({"status": "ok"})

    @app.head("/ready", include_in_schema=False)  # what some balancers and monitors ask with
    @app.get("/ready", tags=["probes"])
    async def ready() -> Response:
        """New runs are taken: the store answers and takes events, and the worker is not stopping."""
        if streams.draining:
            return answer({"status": "draining"}, 503)
        if runner.failing:
            raise StoreUnavailable("the store takes nothing at the moment", retry_after_s=1)
        await runner.list_runs(limit=1)
        return answer({"status": "ready"})

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=_PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html", headers=_PAGE_HEADERS)

    app.mount("/static", _Static(packages=_FOLDERS), name="static")

    @app.exception_handler(GaplessError)
    async def on_error(request: Request, error: GaplessError) -> Response:
        return answer_error(error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed", 415: "unsupported_media_type"}.get(
            error.status_code, "http_error"
        )
        message = f"{request.method} {request.url.path}: {error.detail}"
        return answer({"error": {"code": code, "message": message}}, error.status_code, dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def on_leaving(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # before it had sent its whole body; nobody reads this, and it is no error

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return answer({"error": {"code": "input_invalid", "message": str(error.errors()[0]["msg"])}}, 422)

    return app


class _App(FastAPI):
    """Routes requests as FastAPI does, and runs event streams after FastAPI is through with them."""

    streams_inside = False
    """They have to go through the middleware all the same, because it adds to their headers (CORS)."""

    first_request: Callable[[], None] | None = None
    """Called at the first request of an app that was mounted without its lifespan."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.first_request is not None and scope["type"] != "lifespan":
            self.first_request()
            self.first_request = None
        if self.streams_inside:
            await super().__call__(scope, receive, send)
            return
        streams: list[EventStream] = []
        before = {*scope, "root_path"}
        scope[DEFERRED] = streams
        await super().__call__(scope, receive, send)
        if streams:
            for added in scope.keys() - before:  # what the routes left behind is not kept for as long as it streams
                del scope[added]
            await streams.pop().stream(receive, send)


class _Static(StaticFiles):
    """The page's modules, revalidated at each load."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_PAGE_HEADERS)
        return response


def _close_at_sigterm(streams: Streams, runner: Runner) -> None:
    """For an app that is mounted in another one, which does not run its lifespan: end streams and runs as soon as the
    process is told to stop, because nobody will later."""

    def close() -> None:
        streams.drain()
        streams.closing = asyncio.ensure_future(runner.close())

    _at_sigterm(runner, close)


def _at_sigterm(runner: Runner, drain: Callable[[], None]) -> Callable[[], None]:
    """Call `drain` on the runner's loop as soon as the process is told to stop; returns what undoes that.

    A server first waits for its connections, and those of followers would not end by themselves; so this goes in front
    of the server's own signal handlers."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # signals go to the main thread; whoever runs a server elsewhere calls `streams.drain`
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        runner.refuse_new()
        runner.call_soon(drain)
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number, handler in previous.items():
        if handler is not None:
            signal.signal(number, handle)

    def undo() -> None:
        for number, handler in previous.items():
            if handler is not None and signal.getsignal(number) is handle:
                signal.signal(number, handler)

    return undo
