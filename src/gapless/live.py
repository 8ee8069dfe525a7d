"""Live runs: what people say to an agent while it speaks.

A live run (`StreamingMode.BIDI`) is a run like any other: journaled, followed from any position, ended once. What
differs is that its agent is spoken to all along. What is said comes as `LiveRequest`s, in order, through a
`LiveRequestQueue`, which has the names of ADK's. Text that is said is recorded as the user's message when the agent
takes it, so that every follower and the session have it; sound and pictures are not recorded.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from gapless.config import RunConfig, StreamingMode
from gapless.errors import InputInvalid, LimitReached
from gapless.events import ContentPart
from gapless.user_message import user_message

__all__ = ["AUDIO", "LIVE_AHEAD_MAX", "Blob", "LiveRequest", "LiveRequestQueue", "is_live"]

LIVE_AHEAD_MAX = 1_000
"""Requests that one run's agent has not taken yet; a further one is refused,"""
LIVE_AHEAD_BYTES_MAX = 8 * 1024 * 1024
"""and so it is where they are as large as this: four minutes of sound."""
AUDIO = "audio/pcm;rate=16000"
"""What sound is taken for that says nothing of itself: 16-bit samples, as live models take them."""


def is_live(config: RunConfig | None) -> bool:
    """Return whether people go on speaking to a run of this `config`."""
    return config is not None and config.streaming_mode is StreamingMode.BIDI


class Blob(msgspec.Struct, forbid_unknown_fields=True):
    """Holds a piece of sound or one picture: `data`, of `mime_type`; in base64 where it stands in JSON."""

    data: bytes
    mime_type: str = AUDIO


class LiveRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Says one thing to a live run: `content`, `blob`, or one of the marks `activity_start`, `activity_end` and
    `close`. Raises `ValueError` for none or several.
    """

    content: str | list[ContentPart] | None = None
    """A whole message; the agent may answer at once."""
    id: str | None = None
    """The message's. One that comes twice, as after a cut, counts once."""
    blob: Blob | None = None
    """Sound or a picture as it comes; the agent decides when it has heard enough."""
    activity_start: bool = False
    """The user begins to speak; for models whose own detection of that is off."""
    activity_end: bool = False
    close: bool = False
    """Nothing more will be said: the run ends when the agent has answered."""

    def __post_init__(self) -> None:
        said = (self.content is not None, self.blob is not None, self.activity_start, self.activity_end, self.close)
        if sum(said) != 1:
            raise ValueError("a live request is one of content, blob, activity_start, activity_end and close")
        if self.content is not None and not self.content:
            raise ValueError("the message is empty")


class LiveRequestQueue:
    """Carries what is said to the agent. Iterating it ends with `close`; for the agent, it is `ctx.live`.

    Every `send…` but a further `close` raises `InputInvalid` after `close`, and `LimitReached` while the agent is too
    far behind (`LIVE_AHEAD_MAX`, `LIVE_AHEAD_BYTES_MAX`).
    """

    def __init__(self) -> None:
        self._requests: asyncio.Queue[LiveRequest] = asyncio.Queue()
        self._bytes = 0
        self.closed = False
        """Nothing more will be said."""

    def send_content(self, content: object, *, id: str | None = None) -> None:
        """Queue a message: `content` is text, a list of AG-UI content parts, or a Gemini content object; with the same
        `id` it counts once. Raises `InputInvalid`.
        """
        self.send(LiveRequest(content=user_message(content).content, id=id))

    def send_realtime(self, blob: Any, mime_type: str = AUDIO) -> None:
        """Queue a piece of sound or a picture: `blob` is bytes of `mime_type`, or an object with both, such as a Gemini
        `Blob`.
        """
        if not isinstance(blob, bytes | bytearray | memoryview):
            blob, mime_type = blob.data, blob.mime_type or mime_type
        self.send(LiveRequest(blob=Blob(data=bytes(blob), mime_type=mime_type)))

    def send_activity_start(self) -> None:
        """Say that the user begins to speak."""
        self.send(LiveRequest(activity_start=True))

    def send_activity_end(self) -> None:
        """Say that the user has spoken."""
        self.send(LiveRequest(activity_end=True))

    def close(self) -> None:
        """Say that nothing more will be said. Idempotent."""
        self.send(LiveRequest(close=True))

    def send(self, request: LiveRequest, *, times: int = 1) -> None:
        """Queue one `request`. `times` multiplies the bounds, for a sender that cannot wait. Raises `InputInvalid`,
        `LimitReached`."""
        if self.closed:
            if request.close:
                return
            raise InputInvalid("nothing more can be said: that was closed, or has ended")
        waiting = self._requests.qsize()
        if not request.close and (waiting >= times * LIVE_AHEAD_MAX or self._bytes >= times * LIVE_AHEAD_BYTES_MAX):
            behind = f"{waiting} requests, {self._bytes} bytes"
            raise LimitReached(f"the agent is {behind} behind what was said; wait", retry_after_s=1)
        self.closed = request.close
        self._bytes += _size(request)
        self._requests.put_nowait(request)

    @property
    def pending(self) -> bool:
        """True if something was said that has not been taken, or all was said: an agent that speaks may want
        to stop.
        """
        return not self._requests.empty()

    async def get(self) -> LiveRequest:
        """Wait for the next request and take it out; the last is `close`, again and again."""
        await self.before_taking()
        request = await self._requests.get()
        if request.close:
            self._requests.put_nowait(request)  # for others who wait
            return request
        self._bytes -= _size(request)
        self.on_taken(request)
        return request

    async def before_taking(self) -> None:
        """Hold back who takes too fast. Nothing is taken out yet: who then waits no longer has lost nothing."""

    def on_taken(self, request: LiveRequest) -> None:
        """Do what has to be done as `request` is taken out, before its taker has it."""

    def rest(self) -> list[LiveRequest]:
        """Close the queue and return what nobody will take any more."""
        self.close()
        found = []
        while not (request := self._requests.get_nowait()).close:
            found.append(request)
        self._requests.put_nowait(request)
        return found

    def __aiter__(self) -> LiveRequestQueue:
        return self

    async def __anext__(self) -> LiveRequest:
        request = await self.get()
        if request.close:
            raise StopAsyncIteration
        return request


def _size(request: LiveRequest) -> int:
    """Return roughly what a request takes, in bytes."""
    if request.blob is not None:
        return len(request.blob.data)
    if isinstance(request.content, list):
        return len(msgspec.json.encode(request.content))
    return len(request.content or "")
