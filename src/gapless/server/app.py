"""The ASGI app: all routes over one runner."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gapless.errors import GaplessError, ShuttingDown
from gapless.given import check_given, check_number
from gapless.http.answers import answer_error, json_response
from gapless.http.auth import Access, Authenticate, Authorize, Guard
from gapless.http.scope import DEFERRED, SERVERS_RECEIVE
from gapless.http.stream import EventStream, Streams
from gapless.protocols import ROUTES
from gapless.protocols.adk.web import serve_adk_web
from gapless.protocols.starting import ClientRoutes
from gapless.runs.runner import Runner
from gapless.runs.worker import DRAIN_S
from gapless.server.checks import check_families, check_hosts, check_origins, check_prefix
from gapless.server.formulas import FormulaRoutes
from gapless.server.live import LiveRoutes
from gapless.server.metrics import MetricRoutes, published
from gapless.server.pages import check_address, mount_static, pages
from gapless.server.probes import ProbeRoutes
from gapless.server.push import PushRoutes
from gapless.server.runs import RunRoutes
from gapless.server.sessions import SessionRoutes
from gapless.server.signals import at_sigterm, close_at_sigterm
from gapless.wire import load

__all__ = ["create_app"]

_KEPT = ("app", "endpoint", "path_params", "root_path", "route")
"""What stays in the scope of a request whose answer streams: whoever is around the app may ask which route it was."""

_OWN: tuple[type[ClientRoutes], ...] = (
    RunRoutes,
    SessionRoutes,
    LiveRoutes,
    PushRoutes,
    FormulaRoutes,
    MetricRoutes,
    ProbeRoutes,
)
DRAIN_S_MAX = 24 * 3600.0
_LOOK_S_MAX = 1.0
"""The store has so long to say whether there are other workers, before this one goes on stopping."""
_CODES = {404: "not_found", 405: "method_not_allowed", 415: "unsupported_media_type"}


def create_app(
    runner: Runner,
    *,
    authenticate: Authenticate | None = None,
    authorize: Authorize | None = None,
    cors_origins: Sequence[str] = (),
    allowed_hosts: Sequence[str] | None = None,
    drain_s: float = DRAIN_S,
    adk_web: bool = False,
    shared_state: bool = False,
    cancel_on_hang_up: Collection[str] = (),
    path_prefix: str = "",
    login_url: str = "",
    logout_url: str = "",
    operators: Collection[str] = (),
) -> FastAPI:
    """Make the whole HTTP surface over `runner`, as an app of its own or to be mounted in another:
    `app.mount("/agents", create_app(runner))`.

    Args:
        runner: What runs the agents; the app opens it, and drains and closes it at shutdown.
        authenticate: Takes a request and returns its user's id (or None); without it the keys of `GAPLESS_API_KEYS` are
            used, and without those everyone is one anonymous user.
        authorize: Decides on every use of a run or session; by default they are their user's.
        cors_origins: Web origins that may call from a browser, as `https://app.example.com`.
        allowed_hosts: Names that the server may be called by, `*` for any. By default any where users are
            authenticated; where nobody is, `localhost` and addresses, so that no other site's page can call it by a
            name of that site.
        drain_s: Seconds that runs get to finish at shutdown.
        adk_web: Serve ADK's own web page too, at `/dev-ui/`; raises `ExtraMissing` without the `adk` extra.
        shared_state: Let clients set state that all users' agents read: ADK's, under keys that begin with `app:`.
        cancel_on_hang_up: Families of clients, of `ag-ui`, `vercel`, `openai`, `text`, whose runs are cancelled when
            the last of their connections ends: for clients whose stop button only hangs up, such as CopilotKit's. A cut
            connection is then no different from a stop. A run that waits for a person goes on waiting.
        path_prefix: The path under which a proxy has the app, e.g. `/agents`, whether it cuts it off or passes it on.
            Not for an app that is mounted in another.
        login_url: Where the chat page sends who is not known, instead of asking for a key: a path of this site or a
            URL. `{next}` in it is the page's own address, encoded, to come back to.
        logout_url: Where its "Log out" leads.
        operators: Ids of users who see all runs at `/runs`, cancel and answer them.
    """
    check_given("runner", runner, Runner, "a Runner, as in create_app(Runner(agent))")
    check_given("drain_s", drain_s, int | float, "a number of seconds")
    check_number("drain_s", drain_s, 0, DRAIN_S_MAX)
    check_prefix("path_prefix", path_prefix)
    check_origins("cors_origins", cors_origins)
    check_hosts("allowed_hosts", allowed_hosts or ())
    addresses = {"login": login_url, "logout": logout_url}
    for name, address in addresses.items():
        check_address(f"{name}_url", address)
    check_families("cancel_on_hang_up", cancel_on_hang_up)
    access = Access(authenticate, authorize, shared_state=shared_state, operators=operators)
    if allowed_hosts is None and not access.open:
        allowed_hosts = ("*",)
    hosts = None if allowed_hosts is None else frozenset(allowed_hosts)
    app = _App(runner, access, origins=frozenset(cors_origins), hosts=hosts, drain_s=drain_s)
    app.streams.cancelling = frozenset(cancel_on_hang_up)
    app.root_path = path_prefix
    families: list[type[ClientRoutes]] = [load(routes) for routes in ROUTES]
    for routes in (*_OWN, *families):
        # Not `include_router`: FastAPI then looks for each request's route through a router within the app's.
        app.router.routes += routes(runner, app.streams, access).router().routes
    if adk_web:
        serve_adk_web(app, runner, app.streams, access)
    push = runner.worker.deliveries.push
    app.router.routes += pages({**addresses, "push": "" if push is None else push.public_key}).routes
    mount_static(app)
    return app


class _App(FastAPI):
    """Routes requests as FastAPI does, and runs event streams after FastAPI is through with them."""

    def __init__(
        self, runner: Runner, access: Access, *, origins: frozenset[str], hosts: frozenset[str] | None, drain_s: float
    ) -> None:
        self.runner = runner
        self.streams = Streams()
        self._drain_s = drain_s
        self._drained = False
        self._watching = False
        """Somebody sees to the end of streams and runs: the lifespan or, where the app is mounted, a signal handler."""
        super().__init__(
            title="Gapless",
            description="Runs agents and serves their journals to any client, from any position.",
            lifespan=self._lifespan,
            middleware=_middleware(origins, hosts),
            docs_url=None,  # FastAPI's own pages load scripts from elsewhere
            redoc_url=None,
        )
        self.state.runner, self.state.streams, self.state.access = runner, self.streams, access
        self.state.siblings, self.state.replacing = 0, lambda: False
        self.add_exception_handler(GaplessError, _on_error)
        self.add_exception_handler(HTTPException, _on_http_error)
        self.add_exception_handler(ClientDisconnect, _on_leaving)
        self.add_exception_handler(RequestValidationError, _on_invalid)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self._watching = True
        async with published(self.runner):
            await self.runner.open()
            await self.runner.load()
            undo = at_sigterm(self.runner, self._stop, self._hurry)
            try:
                yield
            finally:
                undo()
            self.streams.drain()
            await self.runner.close(0.0 if self._drained else self._drain_s)

    async def _stop(self, stop_listening: Callable[[], None]) -> None:
        """Let the active runs end, and serve those who read them meanwhile, also who comes back. Who comes anew is left
        to other workers, if there are any but those of this server (`siblings`), which stop too unless one of them is
        replaced."""
        if self.state.replacing():  # the one in its place listens already
            stop_listening()
        others = await self.runner.look_for_others(_LOOK_S_MAX)  # one that has just started counts
        if others > self.state.siblings:
            stop_listening()
        await self.runner.drain(self._drain_s)
        self._drained = True
        self.streams.drain()

    def _hurry(self) -> None:
        """Let no run finish, and nobody read to its end."""
        self._drained = True
        self.streams.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._watching and scope["type"] != "lifespan":
            self._watching = True
            close_at_sigterm(self.streams, self.runner)
        prefix = self.root_path
        if prefix and scope["type"] != "lifespan" and not f"{scope['path']}/".startswith(f"{prefix}/"):
            scope["path"] = prefix + scope["path"]  # the proxy has cut it off
        before = {*scope, *_KEPT}
        streams: list[EventStream] = []
        if not self._is_wrapped():
            scope[DEFERRED] = streams
        scope[SERVERS_RECEIVE] = receive
        try:
            await super().__call__(scope, receive, send)
        finally:
            scope.pop(SERVERS_RECEIVE, None)  # it has the scope: they would be left for the collector
        if streams:
            for added in scope.keys() - before:  # what the routes left behind is not kept for as long as it streams
                del scope[added]
            await streams.pop().stream(receive, send)

    def _is_wrapped(self) -> bool:
        """Return whether more middleware than our own goes around the routes: streams go through it then, as it may add
        to their headers (CORS) and waits for an answer. An app can be given some until its first request; what
        instruments an app has it build another stack."""
        if len(self.user_middleware) > 1 or "build_middleware_stack" in vars(self):
            return True
        return _is_replaced(Starlette) or _is_replaced(FastAPI)


def _is_replaced(kind: type[Starlette]) -> bool:
    """Return whether something (Sentry is some) has put itself around the calls of all apps."""
    call = kind.__call__
    return call.__module__ != kind.__module__ or hasattr(call, "__wrapped__")


def _middleware(origins: frozenset[str], hosts: frozenset[str] | None) -> list[Middleware]:
    guard = Middleware(Guard, hosts=hosts, origins=origins, answer=answer_error)
    if not origins:
        return [guard]
    cors: Any = Middleware(
        CORSMiddleware,
        allow_origins=sorted(origins),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],  # the clients of five families send headers of their own
        expose_headers=["content-location", "location", "x-run-id"],
    )
    return [cors, guard]


# -- errors ---------------------------------------------------------------------------------------------------------


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GaplessError), "it was added for these"
    answer = answer_error(error)
    if isinstance(error, ShuttingDown) and request.scope.get("http_version", "").startswith("1"):
        answer.headers["connection"] = "close"  # or who repeats the request comes back to this worker
    return answer


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "it was added for these"
    code = _CODES.get(error.status_code, "http_error")
    message = f"{request.method} {request.url.path}: {error.detail}"
    return json_response({"error": {"code": code, "message": message}}, error.status_code, dict(error.headers or {}))


async def _on_leaving(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # before it had sent its whole body; nobody reads this, and it is no error


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "it was added for these"
    return json_response({"error": {"code": "input_invalid", "message": str(error.errors()[0]["msg"])}}, 422)
