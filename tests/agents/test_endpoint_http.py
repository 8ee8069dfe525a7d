"""The HTTP side of endpoints: refusals, retries, keys, and services that mean ill."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import httpx2
import pytest

from gapless import Runner
from gapless.agents.endpoint_http import ATTEMPTS_MAX, EVENT_BYTES_MAX, STEPS_MAX, events_of, read_body
from gapless.errors import (
    GaplessError,
    InputInvalid,
    InputTooLarge,
    ModelFailed,
)
from tests.support.endpoints import HELLO, ask, chunk
from tests.support.upstream import Reply, sse, upstream

KEY = "sk-a-secret-that-nobody-may-see"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GAPLESS_ENDPOINT_KEY", "GAPLESS_MODEL_NAME"):
        monkeypatch.delenv(name, raising=False)


async def test_events_with_crlf_comments_and_no_space_are_read() -> None:
    body = b": hello\r\n\r\n" + sse(chunk(content="Hi\u2028!"), chunk("stop"), end=b"\r\n").replace(b"data: ", b"data:")
    async with upstream(Reply(body)) as up:
        fold, _ = await ask(up.url + "/v1?model=m")
    assert fold.text == "Hi\u2028!"


async def test_an_event_in_several_lines_is_one_event() -> None:
    first, rest = json.dumps(chunk(content="Hi")).split(", ", 1)
    body = f"data: {first},\nid: 5\nevent: message\ndata: {rest}\n: aside\n\n\n".encode()
    async with upstream(Reply(body + sse(chunk("stop"), "[DONE]"))) as up:
        fold, _ = await ask(up.url + "/v1?model=m")
    assert fold.text == "Hi"


def response_of(*pieces: bytes, waits: bool) -> httpx2.Response:
    """An answer in these pieces; with `waits` the event loop turns between them, as between what comes by network."""

    async def body() -> AsyncIterator[bytes]:
        for number, piece in enumerate(pieces):
            if waits and number % 1000 == 0:
                await asyncio.sleep(0)
            yield piece

    return httpx2.Response(200, content=body(), request=httpx2.Request("GET", "http://host/"))


def cut_up(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


LINES = EVENT_BYTES_MAX // len(b"data:x\n") - 1


@pytest.mark.parametrize(
    ("body", "size", "value"),
    [
        (b"data:x\n" * LINES + b"\n", 32, "\n".join("x" * LINES)),
        (b"data:" + b"x" * (EVENT_BYTES_MAX - 9) + b"\n\n", 32, "x" * (EVENT_BYTES_MAX - 9)),
    ],
    ids=["many lines", "one line"],
)
async def test_a_large_event_is_work_for_its_bytes_however_it_comes(body: bytes, size: int, value: str) -> None:
    async with asyncio.timeout(60):  # of work that grows with the square of the event it takes minutes
        assert [data async for data in events_of(response_of(*cut_up(body, size), waits=True))] == [value]


@pytest.mark.parametrize("body", [b"data:x\n" * LINES * 2, b"data:" + b"x" * EVENT_BYTES_MAX], ids=["lines", "line"])
async def test_an_event_over_the_limit_ends_the_run(body: bytes) -> None:
    async with upstream(Reply(body)) as up:
        with pytest.raises(GaplessError, match=f"event of more than {EVENT_BYTES_MAX} bytes") as error:
            await ask(up.url + "/v1?model=m")
    assert error.value.code == ModelFailed.code


@pytest.mark.parametrize("read", ["events", "pieces", "body"])
async def test_what_has_come_at_once_does_not_keep_other_runs_from_their_turn(read: str) -> None:
    count, turns = 10 * STEPS_MAX, 0
    loop = asyncio.get_running_loop()

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    loop.call_soon(turn)
    if read == "body":
        assert await read_body(response_of(*[b"x"] * count, waits=False)) == b"x" * count
    else:
        pieces = [b"data: {}\n\n" * count] if read == "events" else [b":"] * count
        async for _ in events_of(response_of(*pieces, waits=False)):
            pass
    assert turns >= 10


@pytest.mark.parametrize("path", ["/v1?model=m", "/ag-ui"])
@pytest.mark.parametrize("depth", [200, 100_000])
async def test_json_that_is_nested_too_deep_is_the_services_fault(path: str, depth: int) -> None:
    event = '{"type": "STATE_SNAPSHOT", "snapshot": %s, "error": %s}'
    deep = "[" * depth + "]" * depth
    async with upstream(Reply(sse(event % (deep, deep)))) as up:
        with pytest.raises(GaplessError, match="arrays and objects within each other") as error:
            await ask(up.url + path)
    assert error.value.code == ModelFailed.code


async def test_a_services_cookies_are_not_kept() -> None:
    async with upstream(Reply(HELLO, headers={"set-cookie": "who=somebody"})) as up:
        async with Runner(up.url + "/v1?model=m") as runner:
            for _ in range(2):
                await (await runner.start("Hi")).collect()
        assert [request.headers.get("cookie") for request in up.requests] == [None, None]


async def test_a_redirect_to_nowhere_is_a_refusal() -> None:
    async with upstream(Reply(b"", status=307, headers={"location": "http://host:port/"})) as up:
        with pytest.raises(GaplessError, match="answered 307") as error:
            await ask(up.url + "/v1?model=m")
    assert error.value.code == ModelFailed.code


async def test_a_busy_service_is_asked_again_when_it_said_to() -> None:
    busy = Reply(b"{}", status=429, content_type="application/json", headers={"retry-after": "0"})
    async with upstream(busy, Reply(HELLO)) as up:
        fold, _ = await ask(up.url + "/v1?model=m")
    assert fold.text == "Hello"
    assert len(up.requests) == 2


@pytest.mark.parametrize(
    ("reply", "requests"),
    [
        (Reply(b"", status=429, headers={"retry-after": "0"}), ATTEMPTS_MAX),
        (Reply(b"", status=503, headers={"retry-after": "3600"}), 1),
        (Reply(b"", status=503), 1),
        (Reply(b"", status=500, headers={"retry-after": "0"}), 1),
    ],
    ids=["always busy", "much later", "no time given", "broken"],
)
async def test_nothing_else_is_sent_twice(reply: Reply, requests: int) -> None:
    async with upstream(reply) as up:
        with pytest.raises(GaplessError) as error:
            await ask(up.url + "/v1?model=m")
    assert error.value.code == ModelFailed.code
    assert len(up.requests) == requests


async def test_a_connection_that_breaks_before_the_answer_is_not_tried_again() -> None:
    served = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(GaplessError) as error:
        await ask(f"http://127.0.0.1:{port}/v1?model=m")
    server.close()
    assert error.value.code == "endpoint_cut"
    assert served == 1


async def test_nobody_there_is_said_with_the_url() -> None:
    async with upstream(Reply(b"")) as up:
        url = up.url
    with pytest.raises(GaplessError, match=f"nothing answers at {url}/v1/chat/completions"):
        await ask(url + "/v1?model=m&secret=1")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("path", ["/v1?model=m", "/ag-ui"])
async def test_a_missing_key_is_said_with_its_variable(status: int, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)  # is for OpenAI alone
    async with upstream(Reply(b'{"error": "Incorrect key sk-"}', status=status)) as up:
        with pytest.raises(GaplessError, match="set GAPLESS_ENDPOINT_KEY") as error:
            await ask(up.url + path)
        assert "authorization" not in up.requests[0].headers
        monkeypatch.setenv("OPENAI_BASE_URL", up.url + "/v1")
        with pytest.raises(GaplessError, match="does not take the key in OPENAI_API_KEY"):
            await ask(up.url + path)
        assert up.requests[1].headers["authorization"] == f"Bearer {KEY}"
    assert error.value.code == ModelFailed.code
    assert KEY not in error.value.message


async def test_the_key_goes_nowhere_but_to_the_url_as_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GAPLESS_ENDPOINT_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    async with upstream(Reply(HELLO)) as other:
        moved = Reply(b"", status=307, headers={"location": other.url + "/v1/chat/completions?token=t"})
        async with upstream(moved) as up:
            with pytest.raises(GaplessError, match=f"redirects to {other.url}/v1/chat/completions: write"):
                await ask(up.url + "/v1?model=m")
            assert up.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert other.requests == []
    assert KEY not in caplog.text


async def test_a_key_that_no_header_carries_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPLESS_ENDPOINT_KEY", "schlüssel")
    with pytest.raises(GaplessError, match="GAPLESS_ENDPOINT_KEY is no key") as error:
        await ask("http://127.0.0.1:1/v1?model=m")
    assert "schl" not in error.value.message


@pytest.mark.parametrize(
    ("status", "code"), [(404, ModelFailed.code), (400, InputInvalid.code), (413, InputTooLarge.code)]
)
async def test_what_the_service_says_is_passed_on(status: int, code: str) -> None:
    body = json.dumps({"error": {"message": "The model m does not exist", "code": "model_not_found"}}).encode()
    async with upstream(Reply(body, status=status, content_type="application/json")) as up:
        with pytest.raises(GaplessError, match=f"{status}: The model m does not exist") as error:
            await ask(up.url + "/v1?model=m")
    assert error.value.code == code
