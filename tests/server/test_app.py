"""The app as a whole: under a path, with a log-in elsewhere, with middleware of its user's, traced."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType

import httpx2
import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gapless import Runner, create_app
from gapless.errors import UsageError
from gapless.testing import serving
from tests.support import untraced
from tests.support.agents import Gated
from tests.support.waiting import until


async def words() -> str:
    return "one two"


@pytest.mark.parametrize("passed_on", ["/agents", ""], ids=["passed on", "cut off"])
async def test_a_server_under_a_path(passed_on: str):
    """Whether its proxy cuts the path off or not."""
    async with Runner(words) as runner:
        transport = httpx2.ASGITransport(create_app(runner, path_prefix="/agents"))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            page = await client.get(f"{passed_on}/")
            assert page.status_code == 200
            assert "<title>" in page.text
            assert (await client.get(f"{passed_on}/static/chat.js")).status_code == 200
            begun = await client.post(
                f"{passed_on}/runs", json={"message": "hi"}, headers={"accept": "text/event-stream"}
            )
            run_id = begun.headers["x-run-id"]
            assert begun.headers["content-location"].startswith(f"/agents/runs/{run_id}/events")
            assert "RUN_FINISHED" in begun.text
            assert (await client.get(f"{passed_on}/runs/{run_id}")).json()["status"] == "finished"
            assert (await client.get(f"{passed_on}/nothing")).status_code == 404
            assert (await client.get("/agentsandmore")).status_code == 404


async def test_the_page_of_a_server_under_a_path_is_in_a_folder():
    """Its modules have relative addresses."""
    async with Runner(words) as runner:
        transport = httpx2.ASGITransport(create_app(runner, path_prefix="/agents"))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            moved = await client.get("/agents")
            assert moved.is_redirect
            assert httpx2.URL(moved.headers["location"]).path == "/agents/"


@pytest.mark.parametrize("prefix", ["agents", "/agents/", "/"])
def test_a_path_prefix_is_written_in_one_way(prefix: str):
    with pytest.raises(UsageError, match="write it as /agents"):
        create_app(Runner(), path_prefix=prefix)


async def test_the_page_knows_where_people_log_in_and_out():
    addresses = {"login_url": 'https://sso.example.com/?a="<b>&back={next}', "logout_url": "/logout"}
    async with Runner(words) as runner:
        transport = httpx2.ASGITransport(create_app(runner, **addresses))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            page = await client.get("/")
            assert page.headers["content-type"].startswith("text/html")
            assert "script-src 'self'" in page.headers["content-security-policy"]
            login = "https://sso.example.com/?a=&quot;&lt;b&gt;&amp;back={next}"
            assert f'<html data-login="{login}" data-logout="/logout" lang="en"' in page.text
            assert (await client.head("/")).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "//elsewhere.example",
        "/\t/elsewhere.example",
        "/\n/elsewhere.example",
        "/\r\\\\elsewhere.example",
        "/\\elsewhere.example",
        "login",
    ],
)
def test_an_address_to_log_in_at_is_a_path_or_a_url(address: str):
    with pytest.raises(UsageError, match="write a path, as /login"):
        create_app(Runner(), login_url=address)


async def marked(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers["x-marked"] = "yes"
    return response


def of_starlette(app: FastAPI) -> None:
    app.add_middleware(BaseHTTPMiddleware, dispatch=marked)


def by_decorator(app: FastAPI) -> None:
    app.middleware("http")(marked)


def around_another(app: FastAPI) -> None:
    app.add_middleware(GZipMiddleware)
    app.add_middleware(BaseHTTPMiddleware, dispatch=marked)


def as_instrumentation_does(app: FastAPI) -> None:
    """It has the app build another stack."""
    build = app.build_middleware_stack

    def built(app: FastAPI) -> ASGIApp:
        return BaseHTTPMiddleware(build(), dispatch=marked)

    app.build_middleware_stack = MethodType(built, app)  # type: ignore[method-assign]  # as OpenTelemetry's does


STREAMS = ["/runs/r/events", "/runs"]


async def streamed(client: httpx2.AsyncClient, path: str) -> httpx2.Response:
    body = {"message": "hi", "run_id": "r", "session_id": "s"}
    if path == "/runs":
        return await client.post("/runs", json=body, headers={"accept": "text/event-stream"})
    await client.post("/runs", json=body)
    return await client.get(path)


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("add", [of_starlette, by_decorator, around_another, as_instrumentation_does])
async def test_a_stream_goes_through_the_middleware_that_its_user_adds(add: Callable[[FastAPI], None], path: str):
    app = create_app(Runner(words))
    add(app)
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            answer = await streamed(client, path)
    assert (answer.status_code, answer.headers["x-marked"]) == (200, "yes")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "RUN_FINISHED" in answer.text


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_that_fastapi_traces_is_told_as_what_it_is(path: str, monkeypatch: pytest.MonkeyPatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    untraced.traced(monkeypatch)
    with serving(create_app(Runner(words))) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            assert "RUN_FINISHED" in (await streamed(client, path)).text
    served = [span for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.SERVER]
    assert served
    for span in served:
        assert span.status.status_code is trace.StatusCode.UNSET, span.to_json()
        assert (span.attributes or {})["http.response.status_code"] in (200, 202)


class Around:
    """Notes of each request how it was routed, and how many are under way, when the app is through with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.routes: list[str] = []
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self.open += 1
        await self._app(scope, receive, send)
        self.open -= 1
        self.routes.append(scope["route"].path)


@pytest.mark.parametrize("way", ["around the app", "where it is mounted"])
async def test_what_is_around_the_app_sees_an_answer_to_its_end_and_knows_its_route(way: str):
    agent = Gated("one")
    app = create_app(Runner(agent))
    main = FastAPI(lifespan=lambda _: app.router.lifespan_context(app))
    main.mount("/agents", app)
    prefix = "" if way == "around the app" else "/agents"
    around = Around(app if way == "around the app" else main)
    with serving(around) as url:  # type: ignore[arg-type]  # any ASGI app
        async with httpx2.AsyncClient(base_url=url + prefix) as client:
            await client.post("/runs", json={"message": "hi", "run_id": "r"})
            async with client.stream("GET", "/runs/r/events") as answer:
                await until(lambda: app.state.streams._lasting.due, "it lasts")
                for delivery in app.state.streams.open:
                    app.state.runner.journals.loop.call_soon_threadsafe(delivery.look)
                agent.let(1)
                async for line in answer.aiter_lines():
                    if '"one"' in line:
                        assert around.open == 1
                        agent.let(1)
            await until(lambda: around.open == 0, "it is through")
    assert around.routes == ["/runs", "/runs/{run_id}/events"]


async def test_an_app_below_a_path_with_a_parameter():
    """An app for each tenant."""
    app = create_app(Runner(words))
    main = FastAPI(lifespan=lambda _: app.router.lifespan_context(app))
    main.mount("/t/{tenant}/agents", app)
    with serving(main) as url:
        async with httpx2.AsyncClient(base_url=f"{url}/t/acme/agents") as client:
            begun = await client.post("/runs", json={"message": "hi", "run_id": "r"})
            assert begun.headers["content-location"] == "/t/acme/agents/runs/r/events"
            assert "RUN_FINISHED" in (await client.get("/runs/r/events")).text
            assert (await client.get("/runs/r")).json()["status"] == "finished"
            assert (await client.get("/runs")).json()["runs"]


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_is_told_by_what_is_around_all_apps(path: str, monkeypatch: pytest.MonkeyPatch):
    """As Sentry is, which waits for an answer's status where every app is called."""
    statuses, call = list[int](), Starlette.__call__

    async def told(app: Starlette, scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        await call(app, scope, receive, noted)

    monkeypatch.setattr(Starlette, "__call__", told)
    with serving(create_app(Runner(words))) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            assert "RUN_FINISHED" in (await streamed(client, path)).text
    assert statuses == ([200] if path == "/runs" else [202, 200])
