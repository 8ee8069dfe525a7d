"""An answer that is over leaves nothing behind: a server lets the garbage collector come by rarely, and what refers to
itself would be kept until then, with its request."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from gapless import Runner, create_app
from gapless.http.direct import DirectWriter
from gapless.testing import serving
from tests.support.agents import Gated
from tests.support.collector import left_for_the_collector
from tests.support.waiting import until

STREAM = "accept: text/event-stream\r\n"


class Asking:
    """One client on one connection, and the agent that it makes speak."""

    def __init__(self, url: str, agent: Gated) -> None:
        self.agent = agent
        self._port = int(url.rpartition(":")[2])
        self._client = socket.create_connection(("127.0.0.1", self._port), 20)
        self._received = bytearray()

    def ask(self, path: str, body: Any = None, head: str = STREAM) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{head}"
        self._client.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)

    def read_until(self, wanted: bytes) -> None:
        while wanted not in self._received:
            piece = self._client.recv(1 << 16)
            assert piece, f"it was cut off: {bytes(self._received[-500:])!r}"
            self._received += piece
        del self._received[: self._received.index(wanted) + len(wanted)]

    def leave(self) -> None:
        self._client.close()


END = b"\r\n0\r\n\r\n"


async def a_short_run(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    asking.agent.let(2)
    asking.ask("/runs", {"message": "x", "run_id": run_id})
    asking.read_until(END)


async def several_on_one_connection(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    asking.agent.let(6)
    for number in range(3):
        asking.ask("/runs", {"message": "x", "run_id": f"{run_id}-{number}"})
        asking.read_until(END)


async def a_run_that_has_ended(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    await a_short_run(asking, run_id, ready)
    asking.ask(f"/runs/{run_id}/events")
    asking.read_until(END)


async def a_record(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    await a_short_run(asking, run_id, ready)
    asking.ask(f"/runs/{run_id}", head="")
    asking.read_until(b'"status":"finished"')


async def an_answer_that_is_taken(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    asking.ask("/runs", {"message": "x", "run_id": run_id})
    asking.read_until(b"RUN_STARTED")
    await until(ready, "its connection is taken")
    asking.agent.let(2)
    asking.read_until(END)


async def a_client_that_leaves_a_taken_one(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    asking.ask("/runs", {"message": "x", "run_id": run_id})
    asking.read_until(b"RUN_STARTED")
    await until(ready, "its connection is taken")
    asking.leave()
    asking.agent.let(2)


async def a_client_that_leaves_at_once(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    asking.ask("/runs", {"message": "x", "run_id": run_id})
    asking.read_until(b"RUN_STARTED")
    asking.leave()
    asking.agent.let(2)


async def a_session(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    asking.agent.let(2)
    asking.ask("/runs", {"message": "x", "run_id": run_id, "session_id": f"s-{run_id}"})
    asking.read_until(END)
    asking.ask(f"/sessions/s-{run_id}/events")
    asking.read_until(b"RUN_FINISHED")
    asking.leave()


async def a_session_that_is_taken(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    asking.ask(
        "/runs", {"message": "x", "run_id": run_id, "session_id": f"s-{run_id}"}, head="prefer: respond-async\r\n"
    )
    asking.read_until(b'"session_id"')
    asking.ask(f"/sessions/s-{run_id}/events")
    asking.read_until(b"RUN_STARTED")
    await until(ready, "its connection is taken")
    asking.agent.let(2)
    asking.read_until(b"RUN_FINISHED")
    asking.leave()


async def a_feed(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    asking.ask("/feed")
    asking.read_until(b"200 OK")
    asking.leave()


async def vercel(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    asking.agent.let(2)
    message = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "x"}]}
    asking.ask("/vercel/chat", {"trigger": "submit-message", "id": f"s-{run_id}", "messages": [message]})
    asking.read_until(END)


async def a_refused_one(asking: Asking, run_id: str, ready: Callable[[], bool]) -> None:
    asking.ask("/runs/none/events")
    asking.read_until(b"run_not_found")


KINDS = [
    a_short_run,
    several_on_one_connection,
    a_run_that_has_ended,
    a_record,
    an_answer_that_is_taken,
    a_client_that_leaves_a_taken_one,
    a_client_that_leaves_at_once,
    a_session,
    a_session_that_is_taken,
    a_feed,
    vercel,
    a_refused_one,
]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
async def test_an_answer_that_is_over_leaves_nothing_of_ours_for_the_collector(
    kind: Callable[[Asking, str, Callable[[], bool]], Any], monkeypatch: pytest.MonkeyPatch
):
    taken, take = list[bool](), DirectWriter.take

    def noted(writer: DirectWriter, on_lost: Callable[[], None]) -> Any:
        connection = take(writer, on_lost)
        taken.append(connection is not None)
        return connection

    monkeypatch.setattr(DirectWriter, "take", noted)
    agent = Gated("one")
    runner = Runner(agent)
    app = create_app(runner)

    async def go(url: str, run_id: str) -> None:
        taken.clear()
        asking = Asking(url, agent)
        await kind(asking, run_id, lambda: any(taken))
        asking.leave()
        await until(lambda: not (runner.executions or runner.journals._journals), "its run is over")
        await until(lambda: not app.state.streams.open, "its answer is over")

    with serving(app) as url:
        await go(url, "r0")  # what is made once is made now
        with left_for_the_collector() as found:
            await go(url, "r1")
    ours = {name: count for name, count in found.items() if name.startswith(("gapless.", "uvicorn."))}
    assert not ours
