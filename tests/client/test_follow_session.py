"""The Python client follows sessions: no cut at any byte loses or repeats anything of any run."""

from __future__ import annotations

import asyncio
from urllib.parse import unquote

import msgspec
import pytest

from gapless import Runner, create_app
from gapless.client import Cut, GaplessClient, SyncClient
from gapless.errors import ConnectionLost, CursorInvalid, SessionNotFound, StreamInvalid
from gapless.events import CustomEvent, Event, TextMessageContentEvent, decode_event, encode_event
from gapless.fold import SESSION
from gapless.testing import serving
from tests.client.test_client import IMPATIENT, OK, Request, answer_with, reset, scripted
from tests.support.runs import echo

NEWS = CustomEvent(name=SESSION, value={"session": {"id": "s", "title": "t"}, "runs": []})
EVENTS = [
    (f"r:{run}:{seq}", encode_event(TextMessageContentEvent(message_id="m", delta=f"{run} {seq} ")))
    for run in (1, 2, 3)
    for seq in range(1, 5)
]
WANTED = [(id, decode_event(event)) for id, event in EVENTS]


def frame(id: str, event: bytes) -> bytes:
    return b"data: %b\nid: %b\n\n" % (event, id.encode())


def body(request: Request) -> bytes:
    """What a server sends after the place that the request names."""
    place = unquote(request.target.partition("?after=")[2]) or "0"
    ids = [id for id, _ in EVENTS]
    rest = EVENTS[ids.index(place) + 1 :] if place in ids else EVENTS
    frames = [frame(f"{place}~1f", encode_event(NEWS)), *(frame(*one) for one in rest)]
    return b"".join(frames) + b"event: end\nid: %b.end\n\n" % ids[-1].encode()


async def collect(client: GaplessClient, after: str = "0") -> list[tuple[str, Event]]:
    return [(place, event) async for place, event in client.follow_session("s", after) if event != NEWS]


@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_cut_at_any_byte_loses_and_repeats_nothing(abruptly: bool) -> None:
    offset, cut = 0, False

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        content = body(request)
        if cut:
            writer.write(OK + b"\r\n" + content)
            return
        cut = True
        writer.write(OK + b"\r\n" + content[:offset])
        await writer.drain()
        if abruptly:
            reset(writer)

    async with scripted(handler) as url, GaplessClient(url, limits=IMPATIENT) as client:
        whole = len(b"".join(frame(*one) for one in EVENTS))
        for offset in range(0, whole, 7):
            cut = False
            assert await collect(client) == WANTED, f"cut after {offset} bytes"


async def test_who_hears_how_the_session_stands_has_not_waited_in_vain() -> None:
    """A quiet session is cut by every proxy now and then, for hours."""
    requests = 0

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        quiet = OK + b"\r\n" + frame("0~1", encode_event(NEWS))
        writer.write(quiet if requests < 10 else OK + b"\r\n" + body(request))

    cuts: list[Cut] = []
    limits = msgspec.structs.replace(IMPATIENT, attempts_max=2)
    async with scripted(handler) as url, GaplessClient(url, limits=limits, on_cut=cuts.append) as client:
        assert await collect(client) == WANTED
    assert {(cut.session_id, cut.run_id, cut.after, cut.attempt) for cut in cuts} == {("s", "", 0, 0)}


async def test_latest_is_asked_for_until_there_is_a_place() -> None:
    targets: list[str] = []

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        targets.append(request.target)
        answers = [answer_with("503 Service Unavailable"), OK + b"\r\n" + frame("r:1:0", encode_event(NEWS))]
        writer.write(answers[len(targets) - 1] if len(targets) < 3 else OK + b"\r\n" + body(request))

    async with scripted(handler) as url, GaplessClient(url, limits=IMPATIENT) as client:
        assert await collect(client, "latest") == WANTED
    assert [unquote(target) for target in targets] == [
        "/sessions/s/events?after=latest",
        "/sessions/s/events?after=latest",
        "/sessions/s/events?after=r:1:0",
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (OK + b"\r\n" + frame("x", EVENTS[0][1]), "the id is no position"),
        (OK + b"\r\n" + frame("r:1", b"{}"), "no event of AG-UI"),
        (OK + b"\r\n" + frame("r:2", EVENTS[0][1]) + frame("r:2", EVENTS[0][1]), "sent event r:2 again after r:2"),
        (answer_with("200 OK", b"<html>", "text/html"), "not an event stream"),
    ],
)
async def test_what_is_no_stream_of_gapless_is_refused(answer: bytes, message: str) -> None:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with scripted(handler) as url, GaplessClient(url, limits=IMPATIENT) as client:
        with pytest.raises(StreamInvalid, match=message) as raised:
            await collect(client)
    assert str(raised.value).startswith(f"session s: {url} sent what is no stream of Gapless")


async def test_a_session_is_followed_over_a_real_server_and_what_is_refused_is_raised() -> None:
    with serving(create_app(Runner(echo))) as url:
        async with GaplessClient(url, limits=IMPATIENT) as client:
            await client.create_session("s")
            told: list[tuple[str, Event]] = []
            reading = asyncio.create_task(_read(client, told))
            texts = []
            for n in range(3):
                run = await client.start(f"m{n}", session_id="s", run_id=f"r{n}")
                texts += [(f"{run.id}:{seq}", event) async for seq, event in client.follow(run.id)]
            await client.delete_session("s")
            await reading
            events = [one for one in told if not isinstance(one[1], CustomEvent)]
            assert [id.partition(":")[0] for id, _ in events] == sorted(id.partition(":")[0] for id, _ in events)
            assert {id for id, _ in events} >= {id for id, _ in texts if id.endswith(":1")}
            assert "".join(getattr(e, "delta", "") for _, e in events) == "".join(f"you said m{n}" for n in range(3))
            with pytest.raises(SessionNotFound):
                await anext(client.follow_session("s"))
            await client.create_session("s")
            with pytest.raises(CursorInvalid):
                await anext(client.follow_session("s", "r0:1"))


async def _read(client: GaplessClient, told: list[tuple[str, Event]]) -> None:
    told.extend([one async for one in client.follow_session("s")])


def test_without_an_event_loop() -> None:
    with serving(create_app(Runner(echo))) as url, SyncClient(url, limits=IMPATIENT) as client:
        run = client.start("hi", session_id="s")
        text = ""
        for _, event in client.follow_session("s"):
            text += getattr(event, "delta", "")
            if text == "you said hi":
                break
        assert run.session_id == "s"


async def test_gives_up_where_nothing_comes() -> None:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"\r\n: ping\n")

    limits = msgspec.structs.replace(IMPATIENT, attempts_max=3)
    async with scripted(handler) as url, GaplessClient(url, limits=limits) as client:
        with pytest.raises(ConnectionLost, match="session s: nothing new in 3 connections"):
            await collect(client)
