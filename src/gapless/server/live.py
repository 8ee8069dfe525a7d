"""The WebSocket of live runs: what people say goes one way, the run's journal the other.

Each frame of the journal is one message, as JSON: what an `EventSource` would make of it. A client that was cut comes
back with the run's id and the last frame's, and goes on hearing where it was; the run has gone on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
from fastapi import APIRouter, WebSocket
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from gapless.config import StreamingMode
from gapless.errors import GaplessError, InputInvalid, InputTooLarge, RunNotFound
from gapless.http.answers import chosen_run_id
from gapless.http.auth import Access
from gapless.http.stream import EventStream, Streams, check_start, cursor_of, follow
from gapless.jsontext import decode_json
from gapless.live import Blob, LiveRequest, is_live
from gapless.records import RunRecord
from gapless.runs.runner import Runner
from gapless.server.runs import AskedConfig, config_for
from gapless.sse import DONE
from gapless.wire import wire

__all__ = ["LiveSocket", "routes"]

NORMAL, FAILED, RESTARTING = 1000, 1011, 1012
"""Close codes (RFC 6455, section 7.4.1, and its registry): the run has ended; an error was told; come back, to another
worker."""


def routes(runner: Runner, streams: Streams, access: Access) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["live"])

    @router.get("/live", include_in_schema=False)
    async def refuse() -> Response:
        """Without an upgrade, or where the server cannot make one (RFC 9110, section 15.5.22)."""
        what = "this is a WebSocket; if you have asked for one, the server lacks an extra: pip install 'gapless[live]'"
        raise HTTPException(426, what, {"upgrade": "websocket", "connection": "upgrade"})

    @router.websocket("/live")
    async def live(websocket: WebSocket) -> None:
        """A live run: `?agent=`, `?session_id=`, `?config=` (as in `POST /runs`, JSON) say which to start. With the
        `?run_id=` of one that there is it is joined, after `?after=`; `?wire=` says in which encoding.

        A client sends `LiveRequest`s as JSON, or sound as binary messages. It receives `{"id", "data"}` for each event,
        at last `{"id", "event": "end"}`, and `{"error": {"code", "message"}}` for what it said and could not be taken.
        """
        user, params = await access.user(websocket), websocket.query_params
        encoder = wire(params.get("wire", "ag-ui"))
        run_id = chosen_run_id(websocket, user)
        cursor = cursor_of(websocket, run_id)
        record = await joined(websocket, run_id)
        if record is None:
            await check_start(runner, run_id, cursor)
            run = await runner.start(
                "",
                agent=params.get("agent"),
                session_id=params.get("session_id"),
                run_id=run_id,
                user_id=user,
                config=msgspec.structs.replace(_config(params.get("config")), streaming_mode=StreamingMode.BIDI),
            )
            record = run.started
        stream = follow(runner, streams, record, encoder, cursor, location="")
        deaf = None
        try:
            await access.check(websocket, "answer", record, user=user)
        except RunNotFound as error:
            deaf = error
        await LiveSocket(websocket, runner, streams, record, deaf).serve(stream, encoder(record).end(cursor.seq))

    async def joined(websocket: WebSocket, run_id: str | None) -> RunRecord | None:
        """The run that is to be heard; None for one that is to be started, or that is another's."""
        if run_id is None:
            return None
        try:
            record = await access.find(websocket, "read", runner.get_run, run_id)
        except RunNotFound:
            return None
        if not is_live(record.config):
            raise InputInvalid(f"run {run_id} is not live: follow it at /runs/{run_id}/events", run_id=run_id)
        return record

    def _config(asked: str | None) -> Any:
        try:
            return config_for(runner, None if asked is None else decode_json(asked, AskedConfig)) or runner.config
        except msgspec.DecodeError as error:
            raise InputInvalid(f"config does not fit: {error}") from None

    return router


class LiveSocket:
    """One client of a live run, that hears it and speaks to it. `deaf` is why the run does not hear this one."""

    def __init__(
        self,
        websocket: WebSocket,
        runner: Runner,
        streams: Streams,
        record: RunRecord,
        deaf: GaplessError | None = None,
    ) -> None:
        self._websocket = websocket
        self._runner = runner
        self._streams = streams
        self._record = record
        self._deaf = deaf
        self._gone = asyncio.Event()
        self._turn = asyncio.Lock()
        """Of what is sent: frames, and errors of what was said."""
        self._status = 200

    async def serve(self, stream: Response, end: bytes = b"") -> None:
        """Until the run has ended or the client is gone. `stream` is what `follow` gave; where that is no stream, the
        client has seen all, and is told the `end` alone."""
        await self._websocket.accept()
        hearing = asyncio.create_task(self._hear(), name=f"gapless-live-{self._record.id}")
        try:
            if isinstance(stream, EventStream):
                await stream.stream(self._receive, self._send)
            else:
                await self._send({"type": "http.response.body", "body": end})
        finally:
            hearing.cancel()
            await asyncio.wait({hearing})
        if not hearing.cancelled():
            hearing.result()  # a bug's exception goes where the server logs them
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the client was faster
            code = FAILED if self._status != 200 else RESTARTING if self._streams.draining else NORMAL
            await self._websocket.close(code)

    # -- what is heard ----------------------------------------------------------------------------------------------

    async def _receive(self) -> Message:
        """As an HTTP client has it, which sends nothing more and leaves at last."""
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        """What would be written to an HTTP client, a message for each frame in it."""
        self._status = message.get("status", self._status)
        body: bytes = message.get("body", b"")
        for text in map(self.frame, body.split(b"\n\n")) if self._status == 200 else (body,):
            if text:
                await self._put(text)

    def frame(self, frame: bytes) -> bytes:
        """A frame of Server-Sent Events as JSON; an empty object for a comment, by which also the server learns that a
        client is gone while what that one has said still waits for the agent."""
        fields = dict(line.split(b": ", 1) for line in frame.split(b"\n") if line[:1] not in (b"", b":"))
        parts = [
            b'"%b":%b' % (name, value if name == b"data" and value != DONE else b'"%b"' % value)
            for name, value in fields.items()
            if name != b"retry"
        ]
        return b"{%b}" % b",".join(parts) if frame else b""

    async def _put(self, text: bytes) -> None:
        async with self._turn:
            try:
                await self._websocket.send_text(text.decode())
            except (RuntimeError, WebSocketDisconnect) as error:
                raise OSError("the client is gone") from error

    # -- what is said -----------------------------------------------------------------------------------------------

    async def _hear(self) -> None:
        """Pass on what the client says. While the agent is far behind, the client's messages stay in its socket."""
        try:
            while (message := await self._websocket.receive())["type"] != "websocket.disconnect":
                request = None
                try:
                    request = self.request(message)
                    if self._deaf is not None:
                        raise self._deaf
                    await self._runner.send(self._record.id, request, wait=True)
                except GaplessError as error:
                    told = {"code": error.code, "message": error.told, "run_id": self._record.id}
                    if request is not None and request.id is not None:
                        told["id"] = request.id
                    await self._put(msgspec.json.encode({"error": told}))
        except OSError:
            pass
        finally:
            self._gone.set()

    def content(self, message: Message) -> tuple[bytes | None, str]:
        """A message's sound, or None and its text. Raises `InputTooLarge`."""
        sound, text = message.get("bytes"), message.get("text") or ""
        bytes_max = self._runner.limits.body_bytes_max
        if len(sound or text) > bytes_max:
            raise InputTooLarge(f"the message is over body_bytes_max={bytes_max} bytes", run_id=self._record.id)
        return sound, text

    def request(self, message: Message) -> LiveRequest:
        """What a message says. Raises `InputInvalid`, `InputTooLarge`."""
        sound, text = self.content(message)
        if sound is not None:
            return LiveRequest(blob=Blob(data=sound))
        try:
            return decode_json(text, LiveRequest)
        except msgspec.DecodeError as error:
            raise InputInvalid(f"the message does not fit: {error}", run_id=self._record.id) from None
