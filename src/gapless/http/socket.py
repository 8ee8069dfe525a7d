"""The WebSocket of a live run: what the client says goes one way, the run's journal the other.

Each frame of the journal is one message, as JSON: what an `EventSource` would make of it. A client that was cut comes
back with the run's id and the last frame's, and goes on hearing where it was; the run has gone on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import msgspec
from fastapi import WebSocket
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from gapless.errors import GaplessError, InputInvalid, InputTooLarge
from gapless.http.direct import Direct
from gapless.http.stream import Delivery
from gapless.jsontext import decode_json
from gapless.live import Blob, LiveRequest
from gapless.records import RunRecord
from gapless.runs.runner import Runner
from gapless.sse import DONE
from gapless.wire import Encoder

__all__ = ["LiveSocket"]

NORMAL, FAILED, RESTARTING = 1000, 1011, 1012
"""Close codes (RFC 6455, section 7.4.1, and its registry): the run has ended; an error was told; come back, to another
worker."""

_encode = msgspec.json.Encoder().encode


class LiveSocket:
    """One client of a live run, that hears it and speaks to it. `deaf` is why the run does not hear this one.

    It carries a delivery of the run's journal (see `gapless.http.stream.Carrier`)."""

    direct: Direct | None = None

    def __init__(
        self,
        websocket: WebSocket,
        runner: Runner,
        record: RunRecord,
        encoder: Encoder,
        deaf: GaplessError | None = None,
    ) -> None:
        self.encode: Callable[[Sequence[tuple[int, bytes]], int], list[tuple[bytes, bytes]]] = encoder.parts
        self._websocket = websocket
        self._runner = runner
        self._record = record
        self._encoder = encoder
        self._deaf = deaf
        self._delivery: Delivery | None = None
        self._turn = asyncio.Lock()
        """Held while one thing is sent: a frame, or an error of what was said."""
        self._code = NORMAL

    async def serve(self, delivery: Delivery | None, last: int = 0) -> None:
        """Serve the client until the run has ended or the client is gone. Without a delivery it has seen all up to the
        `last` event, and is told the end alone."""
        await self._websocket.accept()
        self._delivery = delivery
        hearing = asyncio.create_task(self._hear(), name=f"gapless-live-{self._record.id}")
        try:
            with contextlib.suppress(OSError):  # the client is gone
                if delivery is None:
                    await self.end(last)
                else:
                    await self._deliver(delivery)
        finally:
            hearing.cancel()
            await asyncio.wait({hearing})
        if not hearing.cancelled():
            hearing.result()  # a bug's exception goes where the server logs them
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the client was faster
            await self._websocket.close(self._code)

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await delivery.open()
        except GaplessError as error:
            self._code = FAILED
            await self._put(_encode({"error": self._told(error)}))
            return
        try:
            await delivery.run(self)
        finally:
            await delivery.close()

    def _told(self, error: GaplessError) -> dict[str, str]:
        return {"code": error.code, "message": error.told, "run_id": error.run_id or self._record.id}

    # -- what is heard ----------------------------------------------------------------------------------------------

    def take(self, on_lost: Callable[[], None]) -> bool:
        """Return that it is not taken."""
        return False

    def drop(self) -> None:
        """Do nothing: `serve` closes the socket."""

    async def begin(self, after: int) -> None:
        """Say where the client is, on a wire that does so before the first frame."""
        if self._encoder.begin(after):
            await self._put(self.message(b"", self._encoder.id_of(after), None))

    async def write(self, group: list[tuple[bytes, bytes]]) -> None:
        """Send a message for each frame."""
        for id, data in group:
            await self._put(self.message(self._encoder.event_of(data), id, data))

    async def end(self, last: int, group: list[tuple[bytes, bytes]] | None = None) -> None:
        """Send the last messages, and say that the run has ended."""
        await self.write(group or [])
        await self._put(self.message(b"end", b"%b.end" % self._encoder.id_of(last), None))

    async def cut(self, id: bytes) -> None:
        """Tell the client to come back."""
        self._code = RESTARTING
        if self._encoder.reconnect(id):
            await self._put(self.message(b"reconnect", id, b"{}"))

    async def ping(self) -> None:
        """Send an empty object, by which also the server learns that a client is gone while what that one has said
        still waits for the agent."""
        await self._put(b"{}")

    def message(self, event: bytes, id: bytes, data: bytes | None) -> bytes:
        """Return a frame as JSON; empty for one that is not sent. Data is JSON already, but for the marker of an
        end.
        """
        parts = [b'"event":"%b"' % event] if event else []
        parts.append(b'"id":"%b"' % id)
        if data is not None:
            parts.append(b'"data":"%b"' % data if data == DONE else b'"data":%b' % data)
        return b"{%b}" % b",".join(parts)

    async def _put(self, text: bytes) -> None:
        if not text:
            return
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
                    told = self._told(error)
                    if request is not None and request.id is not None:
                        told["id"] = request.id
                    await self._put(_encode({"error": told}))
        except OSError:
            pass
        finally:
            if self._delivery is not None:
                self._delivery.leave()

    def content(self, message: Message) -> tuple[bytes | None, str]:
        """Return a message's sound, or None and its text. Raises `InputTooLarge`."""
        sound, text = message.get("bytes"), message.get("text") or ""
        bytes_max = self._runner.limits.body_bytes_max
        if len(sound or text) > bytes_max:
            raise InputTooLarge(f"the message is over body_bytes_max={bytes_max} bytes", run_id=self._record.id)
        return sound, text

    def request(self, message: Message) -> LiveRequest:
        """Return what a message says. Raises `InputInvalid`, `InputTooLarge`."""
        sound, text = self.content(message)
        if sound is not None:
            return LiveRequest(blob=Blob(data=sound))
        try:
            return decode_json(text, LiveRequest)
        except msgspec.DecodeError as error:
            raise InputInvalid(f"the message does not fit: {error}", run_id=self._record.id) from None
