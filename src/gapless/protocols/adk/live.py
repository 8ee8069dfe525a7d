"""ADK's WebSocket, as its own server has it."""

from __future__ import annotations

import msgspec
from starlette.types import Message as ASGIMessage

from gapless.errors import InputInvalid
from gapless.http.socket import LiveSocket
from gapless.jsontext import decode_json
from gapless.live import Blob as LiveBlob
from gapless.live import LiveRequest
from gapless.protocols.adk.requests import ADKLiveRequest, as_type, camel, content_of, decoded, message_of

__all__ = ["ADKSocket"]


class ADKSocket(LiveSocket):
    """One client of a live run, as ADK's own server has it: each message is an event, or a request of ADK's form."""

    async def ping(self) -> None:
        """Nothing: ADK's clients take every message for an event."""

    def message(self, event: bytes, id: bytes, data: bytes | None) -> bytes:
        return data or b""

    def request(self, message: ASGIMessage) -> LiveRequest:
        sound, text = self.content(message)
        if sound is not None:
            return super().request(message)
        try:
            said = camel(decode_json(text))
        except msgspec.DecodeError as error:
            raise InputInvalid(f"the message does not fit: {error}") from None
        if isinstance(said, dict):
            said |= {"content": message_of(said.get("content")), "blob": camel(said.get("blob"))}
        asked = as_type(ADKLiveRequest, said)
        if asked.content is not None:
            return LiveRequest(content=content_of(asked.content.parts))
        if asked.blob is not None:
            return LiveRequest(blob=LiveBlob(data=decoded(asked.blob.data), mime_type=asked.blob.mime_type))
        start, end = asked.activity_start is not None, asked.activity_end is not None
        try:
            return LiveRequest(activity_start=start, activity_end=end, close=asked.close)
        except ValueError as error:
            raise InputInvalid(str(error)) from None
