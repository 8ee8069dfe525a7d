"""The WebSocket of live runs, by a real client over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from gapless import RunContext, Runner, create_app
from gapless.live import LIVE_AHEAD_MAX
from gapless.protocols import WIRES
from gapless.testing import serving
from tests.support.live import heard, live, one_word, parrot, text
from tests.support.waiting import until


@pytest.fixture
def url() -> Iterator[str]:
    with serving(create_app(Runner(agents={"parrot": parrot, "word": one_word}))) as url:
        yield url


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
            while (first := await socket.recv()) == "{}":
                pass
            assert "RUN_STARTED" in str(first)
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


async def test_a_server_that_leaves_says_so():
    app = create_app(Runner(agents={"parrot": parrot}))
    with serving(app) as url:
        async with live(url) as socket:
            await socket.recv()
            app.state.runner.journals.loop.call_soon_threadsafe(app.state.streams.drain)
            assert (await heard(socket))[-1]["event"] == "reconnect"
            assert socket.close_code == 1012
