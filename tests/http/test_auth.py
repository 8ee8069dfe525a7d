"""Nobody reads another's run, on any route."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, HTTPException

from gapless import Runner, create_app
from gapless.errors import NotAuthorized, UsageError
from gapless.http.auth import keys_from_environment
from gapless.protocols.conversations import scoped
from gapless.records import RunRecord, SessionRecord
from gapless.runs.worker import Worker
from gapless.testing import ScriptedAgent
from tests.support.agents import Gated

ALICE, BOB = "alice-key-0123456789", "bob-key-0123456789"


@pytest.fixture
async def client(client_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> httpx2.AsyncClient:
    monkeypatch.setenv("GAPLESS_API_KEYS", f"alice={ALICE}, bob={BOB}")
    agent = Gated("a")
    client: httpx2.AsyncClient = await client_of(Runner(agent))
    await client.post("/runs", json={"message": "x", "run_id": "r", "session_id": "s"}, headers=key(ALICE))
    await agent.started.wait()  # its run is running
    return client


def key(value: str) -> dict[str, str]:
    return {"authorization": f"Bearer {value}"}


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/runs/r", None),
    ("GET", "/runs/r/events", None),
    ("POST", "/runs/r/cancel", None),
    ("POST", "/runs/r/input", {"resume": []}),
    ("GET", "/sessions/s", None),
    ("GET", "/sessions/s/messages", None),
    ("PATCH", "/sessions/s", {"title": "taken over"}),
    ("DELETE", "/sessions/s", None),
    ("POST", "/runs", {"message": "x", "session_id": "s"}),
    ("GET", "/chat/stream", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_without_a_key_every_route_is_closed(client: httpx2.AsyncClient, method: str, path: str, body: Any):
    for headers in ({}, key("wrong-key-0123456789"), {"authorization": f"Basic {ALICE}"}):
        response = await client.request(method, path, json=body, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "not_authenticated")
        assert response.headers["www-authenticate"] == "Bearer"


async def test_who_is_not_known_is_told_what_to_do(client: httpx2.AsyncClient, client_of: Callable[..., Any]):
    async def told(client: httpx2.AsyncClient, headers: dict[str, str] | None = None) -> str:
        return str((await client.get("/runs", headers=headers)).json()["error"]["message"])

    assert "send an API key" in await told(client)
    assert "does not know that API key" in await told(client, key("wrong-key-0123456789"))
    site = await client_of(Runner(Gated("x")), authenticate=lambda request: request.cookies.get("user"))
    assert "log in" in await told(site)
    assert "API key" not in await told(site, key("wrong-key-0123456789"))


async def test_without_a_key_no_route_tells_what_there_is(client: httpx2.AsyncClient):
    public = {"/health", "/ready"}
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert public < paths.keys()
    for path, methods in paths.items():
        for method in () if path in public else methods:
            for name in ("r", "s", "nope"):
                response = await client.request(method, re.sub(r"\{.*?\}", name, path))
                assert response.status_code == 401, (method, path, response.text)


async def test_anothers_and_none_are_told_apart_by_nothing(client: httpx2.AsyncClient):
    for method, path in (
        ("GET", "/runs/{r}"),
        ("GET", "/runs/{r}/events"),
        ("POST", "/runs/{r}/cancel"),
        ("GET", "/sessions/{s}"),
        ("PATCH", "/sessions/{s}"),
        ("DELETE", "/sessions/{s}"),
        ("GET", "/ag-ui?runId={r}"),
        ("GET", "/vercel/chat/{s}/stream"),
        ("GET", "/vercel/chat/{s}/stream?runId={r}"),
        ("POST", "/vercel/chat/{s}/stop"),
        ("GET", "/v1/responses/resp_{r}"),
        ("POST", "/v1/responses/resp_{r}/cancel"),
    ):
        anothers = await client.request(method, path.format(r="r", s="s"), headers=key(BOB))
        none = await client.request(method, path.format(r="q", s="q"), headers=key(BOB))
        assert anothers.status_code == none.status_code, path
        as_none = re.sub(r"\b(resp_)?[rs]\b", r"\1q", anothers.text)
        assert as_none == none.text, path


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_anothers_run_and_session_do_not_exist(client: httpx2.AsyncClient, method: str, path: str, body: Any):
    headers = {**key(BOB), "last-event-id": "r:1"}
    response = await client.request(method, path, json=body, headers=headers)
    assert response.status_code == 404, response.text
    assert (await client.get("/runs/r", headers=key(ALICE))).json()["status"] == "running"


async def test_lists_show_ones_own(client: httpx2.AsyncClient):
    assert [run["id"] for run in (await client.get("/runs", headers=key(ALICE))).json()["runs"]] == ["r"]
    assert (await client.get("/runs", headers=key(BOB))).json()["runs"] == []
    assert (await client.get("/sessions", headers=key(BOB))).json()["sessions"] == []


async def test_another_cannot_take_a_run_id(client: httpx2.AsyncClient):
    response = await client.post("/runs", json={"message": "x", "run_id": "r"}, headers=key(BOB))
    assert (response.status_code, response.json()["error"]["code"]) == (409, "run_conflict")


def asking_in(session_id: str) -> list[tuple[str, Any]]:
    """A message in this session, on every route on which a client names one."""
    said = {"id": "m", "role": "user", "content": "x"}
    agui = {"threadId": session_id, "runId": "n", "messages": [said], "tools": [], "context": [], "state": {}}
    return [
        ("/runs", {"message": "x", "session_id": session_id}),
        ("/chat/stream", {"message": "x", "session_id": session_id}),
        ("/ag-ui", agui | {"forwardedProps": {}}),
        ("/vercel/chat", {"id": session_id, "messages": [{"id": "m", "role": "user", "parts": [PART]}]}),
        ("/v1/responses", {"model": "app", "input": "x", "conversation": session_id, "background": True}),
    ]


PART = {"type": "text", "text": "x"}


async def test_nothing_of_anothers_session_is_looked_at_or_waited_for(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    async def looked(self: object, session_id: str) -> None:
        pytest.fail(f"somebody looks at what goes on in {session_id}")

    await client.post("/runs/r/cancel", headers=key(ALICE))
    monkeypatch.setattr(Worker, "wait_for_stop", looked)
    monkeypatch.setattr(Runner, "current_run", looked)
    for path, body in asking_in("s")[:-1]:  # the responses' route looks whose the run is that it finds
        response = await client.post(path, json=body, headers=key(BOB))
        assert (response.status_code, response.json()["error"]["code"]) == (404, "session_not_found"), path


async def test_an_id_that_the_server_gives_is_nobodys_to_choose(
    client_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GAPLESS_API_KEYS", f"alice={ALICE}, bob={BOB}")
    client = await client_of(Runner(agents={"app": ScriptedAgent("a")}))
    alices = "/apps/app/users/alice/sessions/s1"
    assert (await client.post(alices, headers=key(ALICE))).json()["id"] == "s1"
    wanted = scoped("s1", "app", "alice")  # Alice's s1 would be this one, had another the name
    for path, body in [("/sessions", {"id": wanted}), *asking_in(wanted)]:
        response = await client.post(path, json=body, headers=key(BOB))
        assert response.status_code in (400, 422), (path, response.text)
    bobs = await client.post(f"/apps/app/users/bob/sessions/{wanted}", headers=key(BOB))
    assert bobs.json()["id"] == wanted
    for id in ("s1", wanted):  # an id of his own, as on all routes of ADK
        assert (await client.get(f"/apps/app/users/alice/sessions/{id}", headers=key(ALICE))).status_code == (
            200 if id == "s1" else 404
        )
    bobs_s1 = await client.post("/apps/app/users/bob/sessions/s1", headers=key(BOB))
    assert bobs_s1.json()["id"] == "s1"
    again = await client.post(
        "/runs", json={"message": "x", "session_id": scoped("s1", "app", "bob")}, headers=key(BOB)
    )
    assert again.status_code == 202, "it is there, and his"


async def test_the_other_header_for_keys(client: httpx2.AsyncClient):
    assert (await client.get("/runs/r", headers={"x-api-key": ALICE})).status_code == 200


async def test_probes_and_page_need_no_key(client: httpx2.AsyncClient):
    for path in ("/health", "/ready", "/", "/static/stream.js", "/docs"):
        assert (await client.get(path)).status_code == 200, path
    for path in ("/health", "/ready", "/"):
        response = await client.head(path)
        assert (response.status_code, response.content) == (200, b""), path


async def test_own_functions_decide(client_of: Callable[..., Any]):
    asked: list[tuple[str, str, str]] = []

    async def authenticate(request: Any) -> str | None:
        return request.headers.get("x-user")  # type: ignore[no-any-return]  # a header

    async def authorize(user: str, action: str, record: RunRecord | SessionRecord) -> bool:
        asked.append((user, action, record.id))
        return user == record.user_id or action == "read"

    client = await client_of(Runner(Gated()), authenticate=authenticate, authorize=authorize)
    await client.post("/runs", json={"message": "x", "run_id": "r"}, headers={"x-user": "alice"})
    assert (await client.get("/runs/r", headers={"x-user": "bob"})).status_code == 200
    assert (await client.post("/runs/r/cancel", headers={"x-user": "bob"})).status_code == 404
    assert (await client.post("/runs/r/cancel", headers={"x-user": "alice"})).status_code == 202
    assert (await client.get("/runs/r")).status_code == 401
    assert asked == [("bob", "read", "r"), ("bob", "cancel", "r"), ("alice", "cancel", "r")]


def test_keys_have_a_length(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GAPLESS_API_KEYS", "alice=short")
    with pytest.raises(UsageError, match="shorter than 16") as caught:
        keys_from_environment()
    assert "short" not in str(caught.value).replace("shorter", ""), "a key is not for messages"


@pytest.mark.parametrize(
    ("keys", "who"), [(f"alice={ALICE},bob={ALICE}", "alice and bob"), (f"alice={ALICE},{ALICE}", "alice and key-")]
)
def test_two_users_with_one_key_are_refused(monkeypatch: pytest.MonkeyPatch, keys: str, who: str):
    monkeypatch.setenv("GAPLESS_API_KEYS", keys)
    with pytest.raises(UsageError, match=f"{who}.* have the same key") as caught:
        keys_from_environment()
    assert ALICE not in str(caught.value), "a key is not for messages"


@pytest.mark.parametrize("keys", ["", " , ", ","])
def test_a_setting_without_keys_does_not_open_the_server(monkeypatch: pytest.MonkeyPatch, keys: str):
    monkeypatch.setenv("GAPLESS_API_KEYS", keys)
    with pytest.raises(UsageError, match="no key in it"):
        keys_from_environment()


async def test_a_plain_key_is_a_user_of_its_own(client_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GAPLESS_API_KEYS", f"{ALICE},{BOB}")
    client = await client_of(Runner(Gated()))
    await client.post("/runs", json={"message": "x", "run_id": "r"}, headers=key(ALICE))
    assert (await client.get("/runs/r", headers=key(ALICE))).status_code == 200
    assert (await client.get("/runs/r", headers=key(BOB))).status_code == 404


async def test_names_the_server_may_be_called_by(client_of: Callable[..., Any]):
    client = await client_of(Runner(Gated()), allowed_hosts=["localhost", "127.0.0.1", "[::1]"])
    for host in ("localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST:1"):
        assert (await client.get("/health", headers={"host": host})).status_code == 200, host
    assert (await client.get("/health", headers={"host": "evil.example"})).status_code == 403


async def test_who_trusts_the_network_is_called_by_no_name_that_another_site_can_have(
    client_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    client = await client_of(Runner(Gated()))
    for host in ("localhost:8000", "127.0.0.1", "192.168.1.5:8000", "[::1]:80", "[fe80::1]"):
        assert (await client.get("/health", headers={"host": host})).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "2130706433.example"):
        refused = await client.get("/runs", headers={"host": host})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_authorized"), host
    named = await client_of(Runner(Gated()), allowed_hosts=["agents.example"])
    assert (await named.get("/health", headers={"host": "agents.example"})).status_code == 200
    anyone = await client_of(Runner(Gated()), allowed_hosts=["*"])
    assert (await anyone.get("/health", headers={"host": "any.example"})).status_code == 200
    monkeypatch.setenv("GAPLESS_API_KEYS", f"alice={ALICE}")
    keyed = await client_of(Runner(Gated()))
    assert (await keyed.get("/health", headers={"host": "any.example"})).status_code == 200


async def test_a_request_names_one_host(client_of: Callable[..., Any]):
    client = await client_of(Runner(Gated()))
    two = [("host", "localhost"), ("host", "evil.example"), ("host", "localhost")]
    assert (await client.get("/runs", headers=two)).status_code == 403


BROWSER = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0", "host": "192.168.1.5"}


async def test_no_picture_on_another_page_starts_a_run(client_of: Callable[..., Any]):
    client = await client_of(Runner(ScriptedAgent("yes")))
    for more in ({}, {"accept": "text/event-stream"}, {"referer": "http://evil.example/?192.168.1.5"}):
        refused = await client.get("/chat/stream?query=x", headers={**BROWSER, **more})  # as over plain HTTP in a LAN
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_authorized"), more
    assert (await client.get("/runs")).json()["runs"] == []
    for more in ({"referer": "http://192.168.1.5/page"}, {"sec-fetch-site": "same-origin"}, {"user-agent": "curl/8"}):
        assert (await client.get("/chat/stream?query=x", headers={**BROWSER, **more})).status_code == 200, more


@pytest.mark.parametrize("path", ["/version", "/config/telemetry", "/list-apps", "/v1/models", "/metrics", "/runs"])
async def test_with_keys_on_nothing_is_told_to_who_has_none(
    path: str, client_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GAPLESS_API_KEYS", f"alice={ALICE}")
    client = await client_of(Runner(Gated()), adk_web=True)
    assert (await client.get(path)).status_code == 401
    assert (await client.get(path, headers=key(ALICE))).status_code == 200


@pytest.mark.parametrize("path", ["/runs", "/sessions", "/health", "/v1/models", "/v1/models/none", "/runs/none"])
async def test_no_browser_keeps_a_json_answer_or_takes_it_for_something_else(path: str, client_of: Callable[..., Any]):
    headers = (await (await client_of(Runner(Gated()))).get(path)).headers
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


HOME = "http://localhost"
FOREIGN = [
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "origin": HOME + ":3000"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    {"origin": HOME + ":3000"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
]
OURS = [
    {},
    {"origin": HOME},
    {"origin": "https://LOCALHOST"},
    {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "origin": HOME},
    {"sec-fetch-site": "same-origin", "origin": "https://outside.example"},
    {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
]


async def test_what_another_origins_page_asks_for_is_not_done(client_of: Callable[..., Any]):
    client = await client_of(Runner(Gated()))
    for headers in FOREIGN:
        for method, path in (
            ("GET", "/chat/stream?query=x"),
            ("POST", "/chat/stream?query=x"),
            ("POST", "/runs/r/cancel"),
            ("DELETE", "/sessions/s"),
            ("GET", "/runs"),
        ):
            response = await client.request(method, path, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (403, "not_authorized"), headers
        assert (await client.post("/", headers={**headers, "sec-fetch-mode": "navigate"})).status_code == 403
    assert (await client.get("/runs")).json()["runs"] == []
    for headers in OURS:
        assert (await client.post("/chat/stream", headers=headers)).status_code == 422, headers


async def test_links_from_other_sites_lead_to_pages_and_into_no_frame(client_of: Callable[..., Any]):
    client = await client_of(Runner(Gated()))
    app = FastAPI()
    app.mount("/agents", create_app(Runner(Gated())))
    mounted = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost/agents")
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    async with mounted:
        for one in (client, mounted):
            for path in ("/", "/docs", "/static/chat.js"):
                assert (await one.get(path, headers=link)).status_code == 200, path
                assert (await one.get(path, headers={**link, "sec-fetch-dest": "iframe"})).status_code == 403, path


async def test_other_sites_pages_are_refused_unless_named(client_of: Callable[..., Any]):
    cross = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "origin": "https://app.example"}
    client = await client_of(Runner(Gated()))
    assert (await client.get("/chat/stream?query=x", headers=cross)).status_code == 403
    assert (await client.get("/", headers={**cross, "sec-fetch-mode": "navigate"})).status_code == 200
    allowing = await client_of(Runner(Gated()), cors_origins=["https://app.example"])
    response = await allowing.get("/health", headers=cross)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    preflight = {**cross, "access-control-request-method": "POST", "access-control-request-headers": "last-event-id"}
    assert (await allowing.options("/runs", headers=preflight)).status_code == 200


async def test_a_user_who_is_no_text_is_the_operators_fault_and_starts_nothing(client_of: Any):
    runner = Runner(Gated("x"))
    client = await client_of(runner, authenticate=lambda request: 5)
    for answer in (await client.get("/runs"), await client.post("/runs", json={"message": "hi"})):
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert "authenticate returned no user's id: user_id is a text, not 5 (int)" in answer.json()["error"]["message"]
    assert await runner.list_runs() == []


def _raises(*_: Any) -> Any:
    raise RuntimeError("the words of a database")


async def _raises_later(*_: Any) -> Any:
    raise RuntimeError("the words of a database")


@pytest.mark.parametrize("raises", [_raises, _raises_later])
@pytest.mark.parametrize("hook", ["authenticate", "authorize"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/runs/r"), ("GET", "/runs/r/events"), ("POST", "/runs/r/cancel"), ("GET", "/v1/responses/r")],
)
async def test_a_function_of_the_servers_own_that_raises_lets_nobody_in_and_is_answered_as_an_error(
    raises: Any, hook: str, method: str, path: str, client_of: Callable[..., Any], caplog: pytest.LogCaptureFixture
):
    runner = Runner(ScriptedAgent("x"))
    await (await runner.start("x", run_id="r")).wait()
    client = await client_of(runner, **{"authenticate": lambda request: "anonymous", hook: raises})
    answer = await client.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (500, "internal_error")
    assert error["message"] == f"{hook} raised RuntimeError; see the server's log"
    assert f"{hook} raised RuntimeError at {__file__}:" in caplog.text
    assert "words" not in caplog.text + answer.text


@pytest.mark.parametrize("said", ["no", "", None, 1, 0, ["read"]])
async def test_only_a_bool_of_authorize_is_a_yes_or_a_no(
    said: Any, client_of: Callable[..., Any], caplog: pytest.LogCaptureFixture
):
    runner = Runner(ScriptedAgent("x"))
    await (await runner.start("x", run_id="r")).wait()

    async def later(*_: Any) -> Any:
        return said

    for authorize in (lambda *_: said, later):
        client = await client_of(runner, authenticate=lambda request: "bob", authorize=authorize)
        answer = await client.get("/runs/r")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert "authorize returned" in caplog.text
        assert "True or False" in answer.json()["error"]["message"]


async def test_what_a_function_of_the_servers_own_refuses_itself_is_answered_as_it_says(client_of: Callable[..., Any]):
    def refuse(request: Any) -> str:
        raise NotAuthorized("not from here")

    def refuse_by_status(request: Any) -> str:
        raise HTTPException(418, "teapot")

    for authenticate, status in ((refuse, 403), (refuse_by_status, 418)):
        client = await client_of(Runner(ScriptedAgent("x")), authenticate=authenticate)
        answer = await client.get("/runs")
        assert answer.status_code == status
        assert "error" in answer.json()
