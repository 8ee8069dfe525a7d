"""The WebSocket of live runs, by a real client over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from gapless import RunContext, Runner, create_app
from gapless.events import CustomEvent, Event, text_of
from gapless.live import LIVE_AHEAD_MAX
from gapless.protocols import WIRES
from gapless.testing import serving
from support.waiting import until


async def parrot(ctx: RunContext) -> AsyncIterator[str | Event]:
    async for request in ctx.live:
        if request.content is not None:
            yield f"You said {text_of(request.content)}. "
        elif request.blob is not None:
            yield CustomEvent(name="sound", value=[len(request.blob.data), request.blob.mime_type])
    yield "Bye."


async def one_word(message: str) -> AsyncIterator[str]:
    yield "word"


@pytest.fixture
def url() -> Iterator[str]:
    with serving(create_app(Runner(agents={"parrot": parrot, "word": one_word}))) as url:
        yield url


def live(url: str, **query: str) -> connect:
    target = httpx2.URL(url.replace("http", "ws", 1) + "/live", params={"agent": "parrot", **query})
    return connect(str(target), proxy=None)


async def heard(socket: ClientConnection, last: str | None = None) -> list[dict[str, Any]]:
    """The messages up to the one that has this in it, or to the end of the run."""
    messages = list[dict[str, Any]]()
    with contextlib.suppress(websockets.ConnectionClosedError):  # any end but the normal one: see `close_code`
        async for message in socket:
            messages.append(json.loads(message))
            if last is not None and last in message:
                break
    return messages


def text(messages: list[dict[str, Any]], role: str = "assistant") -> str:
    events = [message["data"] for message in messages if "data" in message]
    ids = {event["messageId"] for event in events if event["type"] == "TEXT_MESSAGE_START" and event["role"] == role}
    return "".join(e["delta"] for e in events if e["type"] == "TEXT_MESSAGE_CONTENT" and e["messageId"] in ids)


async def test_a_conversation(url: str):
    async with live(url, session_id="s", run_id="r") as socket:
        first = json.loads(await socket.recv())
        assert (first["id"], first["data"]["type"], first["data"]["runId"]) == ("1", "RUN_STARTED", "r")
        await socket.send('{"content": "one"}')
        messages = await heard(socket, last="You said one")
        await socket.send(bytes(320))
        messages += await heard(socket, last="sound")
        await socket.send('{"blob": {"data": "AAEC", "mime_type": "image/png"}}')
        await socket.send('{"content": [{"type": "text", "text": "two"}]}')
        await socket.send('{"close": true}')
        messages += await heard(socket)
        assert socket.close_code == 1000
    assert messages[-1] == {"event": "end", "id": f"{len(messages)}.end"}
    assert [message["id"] for message in messages[:-1]] == [str(seq) for seq in range(2, len(messages) + 1)]
    assert text(messages) == "You said one. You said two. Bye."
    assert text(messages, "user") == "onetwo"
    sounds = [message["data"]["value"] for message in messages if "value" in message.get("data", {})]
    assert sounds == [[320, "audio/pcm;rate=16000"], [3, "image/png"]]
    async with httpx2.AsyncClient(base_url=url) as http:
        said = (await http.get("/sessions/s/messages")).json()["messages"]
    assert [message["content"] for message in said] == ["one", "You said one. ", "two", "You said two. Bye."]


async def test_a_client_that_was_cut_goes_on_where_it_was(url: str):
    async with live(url, run_id="r") as socket:
        await socket.send('{"content": "one"}')
        messages = await heard(socket, last="You said one")
        socket.transport.abort()
    async with httpx2.AsyncClient(base_url=url) as http:  # the run goes on meanwhile, and is spoken to by any way
        said = await http.post("/runs/r/input", json={"live": {"content": "two", "id": "m2"}})
    assert said.status_code == 202
    async with live(url, run_id="r", after=messages[-1]["id"]) as socket:
        await socket.send('{"content": "two", "id": "m2"}')  # once more, as a client that cannot know would
        await socket.send('{"close": true}')
        messages += await heard(socket)
    assert [message["id"] for message in messages[:-1]] == [str(seq) for seq in range(1, len(messages))]
    assert text(messages) == "You said one. You said two. Bye."
    async with live(url, run_id="r", after=messages[-1]["id"]) as socket:
        assert await heard(socket) == [messages[-1]]
        assert socket.close_code == 1000


async def test_a_client_that_leaves_is_noticed_while_its_words_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.http.stream.PING_S", 0.05)

    async def deaf(ctx: RunContext) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield "never"

    with serving(create_app(Runner(agents={"parrot": deaf}))) as url:
        async with live(url, run_id="r", config='{"on_disconnect": "cancel"}') as socket:
            assert "RUN_STARTED" in str(await socket.recv())
            assert await socket.recv() == "{}"
            for _ in range(LIVE_AHEAD_MAX + 50):
                await socket.send('{"activity_start": true}')
        async with httpx2.AsyncClient(base_url=url) as http:

            async def status() -> bool:
                return bool((await http.get("/runs/r")).json()["status"] == "cancelled")

            await until(status, "the run is cancelled")


async def test_two_clients_share_a_run(url: str):
    async with live(url, run_id="r") as one, live(url, run_id="r") as two:
        await one.send('{"content": "one"}')
        await heard(two, last="You said one")
        await two.send('{"content": "two"}')
        await heard(one, last="You said two")
        await two.send('{"close": true}')
        await asyncio.gather(heard(one), heard(two))
    async with live(url, run_id="r") as again:
        assert text(await heard(again)) == "You said one. You said two. Bye."


@pytest.mark.parametrize("name", sorted(WIRES))
async def test_every_wire_says_how_it_ends(url: str, name: str):
    async with live(url, wire=name) as socket:
        await socket.send('{"content": "one"}')
        await socket.send('{"close": true}')
        messages = await heard(socket)
    assert messages[-1]["event"] == "end"
    assert "You said one. " in json.dumps(messages[:-1])


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no JSON", "input_invalid"),
        ("{}", "input_invalid"),
        ('{"content": "a", "close": true}', "input_invalid"),
        ('{"contents": "a"}', "input_invalid"),
        (json.dumps({"content": "x" * 1_000_001, "id": "m1"}), "input_too_large"),
        (bytes(5 * 1024 * 1024), "input_too_large"),
    ],
)
async def test_what_cannot_be_taken_is_told_and_the_run_goes_on(url: str, message: str | bytes, code: str):
    async with live(url, run_id="r") as socket:
        await socket.recv()
        await socket.send(message)
        error = json.loads(await socket.recv())["error"]
        assert (error["code"], error["run_id"], error.get("id")) == (code, "r", "m1" if "m1" in str(message) else None)
        await socket.send('{"close": true}')
        assert text(await heard(socket)) == "Bye."


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"agent": "nobody"}, 404, "agent_not_found"),
        ({"agent": "word"}, 422, "input_invalid"),
        ({"wire": "smoke"}, 422, "input_invalid"),
        ({"config": "{"}, 422, "input_invalid"),
        ({"config": '{"on_worker_lost": "restart"}'}, 422, "input_invalid"),
        ({"run_id": "new", "after": "7"}, 400, "cursor_invalid"),
        ({"run_id": ".."}, 422, "input_invalid"),
        ({"run_id": "ordinary"}, 422, "input_invalid"),
    ],
)
async def test_what_cannot_begin_is_refused_with_a_status(url: str, query: dict[str, str], status: int, code: str):
    async with httpx2.AsyncClient(base_url=url) as http:
        await http.post("/runs", json={"message": "x", "agent": "word", "run_id": "ordinary"})
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with live(url, **query):
            pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == code


async def test_a_live_run_is_its_users(monkeypatch: pytest.MonkeyPatch):
    keys = {"alice": "a" * 16, "bob": "b" * 16}
    monkeypatch.setenv("GAPLESS_API_KEYS", ",".join(f"{name}={key}" for name, key in keys.items()))

    def as_user(url: str, name: str) -> connect:
        target = url.replace("http", "ws", 1) + "/live?run_id=r"
        return connect(target, additional_headers={"Authorization": f"Bearer {keys[name]}"}, proxy=None)

    with serving(create_app(Runner(parrot))) as url:
        async with as_user(url, "alice") as socket:
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with as_user(url, "bob"):
                    pass
            assert refused.value.response.status_code == 409  # the id is taken, and nothing more is said of it
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with live(url):
                    pass
            assert refused.value.response.status_code == 401
            await socket.send('{"close": true}')
            assert text(await heard(socket)) == "Bye."


async def test_who_may_read_and_not_answer_only_listens():
    def reads(user: str, action: str, record: object) -> bool:
        return action == "read"

    with serving(create_app(Runner(agents={"parrot": parrot}), authorize=reads)) as url:
        async with live(url, run_id="r") as socket:
            await socket.recv()
            await socket.send('{"content": "Hi"}')
            assert json.loads(await socket.recv())["error"]["code"] == "run_not_found"


async def test_another_web_sites_page_is_refused(url: str):
    target = url.replace("http", "ws", 1) + "/live?agent=parrot"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(target, origin="https://elsewhere.example", proxy=None):  # type: ignore[arg-type]
            pass
    assert refused.value.response.status_code == 403


async def test_a_server_that_leaves_says_so():
    app = create_app(Runner(agents={"parrot": parrot}))
    with serving(app) as url:
        async with live(url) as socket:
            await socket.recv()
            app.state.runner.journals.loop.call_soon_threadsafe(app.state.streams.drain)
            assert (await heard(socket))[-1]["event"] == "reconnect"
            assert socket.close_code == 1012


async def test_a_run_with_on_disconnect_ends_with_its_last_client(url: str):
    async with live(url, run_id="r", config='{"on_disconnect": "cancel"}') as socket:
        await socket.recv()
    async with httpx2.AsyncClient(base_url=url) as http:

        async def status() -> bool:
            return bool((await http.get("/runs/r")).json()["status"] == "cancelled")

        await until(status, "the run is cancelled")


async def test_a_plain_request_is_told_to_upgrade(url: str):
    async with httpx2.AsyncClient(base_url=url) as http:
        response = await http.get("/live")
    assert (response.status_code, response.headers["upgrade"]) == (426, "websocket")
    assert "gapless[live]" in response.json()["error"]["message"]
