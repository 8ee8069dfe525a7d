"""Followers of runs in the wires of five families of clients, over any number of connections, and what the vendors' own
types make of the frames.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

from gapless.events import decode_event
from gapless.fold import Fold
from gapless.onetext import PARAGRAPH
from gapless.sse import Frame

__all__ = ["Follower", "place_of"]

SAID = re.compile(r'"(?:delta|content|text)":"((?:[^"\\]|\\.)*)"')

OPENING = '{"text":""}'
"""The first frame of the wire `text`, which says where the stream is before there is a word."""

OWN = '{"type":"gapless.'
"""Begins a frame of a kind that the vendor has not: its clients pass over it."""


class Follower:
    """Reads one run in one wire, over any number of connections to either server."""

    def __init__(self, run_id: str, wire: str) -> None:
        self.run_id = run_id
        self.wire = wire
        self.frames: list[tuple[str, str]] = []
        self.last = ""
        self.ended = False

    @property
    def request(self) -> bytes:
        """What it asks a server: in HTTP/1.0, as the body is the stream then, without a frame of its own."""
        after = f"Last-Event-ID: {self.last}\r\n" if self.last else ""
        path = f"/runs/{self.run_id}/events?wire={self.wire}"
        return f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n{after}\r\n".encode()

    def is_new(self, frame: Frame) -> bool:
        """Tell whether it is one of the run's; where nothing has come since, the stream begins as it did before."""
        if frame.data == OPENING and frame.id == self.last:
            return False
        return bool(frame.data and frame.id and frame.event != "reconnect")

    def take(self, frame: Frame) -> None:
        assert frame.id is not None, "it is one of the run's"
        self.last = frame.id
        self.frames.append((frame.id, frame.data))

    @property
    def text(self) -> str:
        """All of its text, whatever is void of it."""
        return "".join(json.loads(f'"{said}"') for _, data in self.frames for said in SAID.findall(data))

    @property
    def folded(self) -> str:
        """What is left of it, of a follower in AG-UI's own events."""
        fold = Fold()
        for _, data in self.frames:
            fold.add(decode_event(data.encode()))
        return fold.text.replace(PARAGRAPH, "")  # one stands where a message was not gone on with

    def check(self) -> list[str]:
        """Say what of its frames the vendor's client does not take."""
        take, found = takes(self.wire), []
        for id, data in self.frames:
            if data != "[DONE]" and not data.startswith(OWN):
                try:
                    take(data)
                except ValueError as error:
                    why = str(error).partition("\n")[0]
                    found.append(f"{self.run_id} {self.wire}: {id} is no frame of it: {data}: {why}")
        return found


@functools.cache
def takes(wire: str) -> Callable[[str], Any]:
    """The vendor's own parser of a frame; of the AI SDK and of ours there is none in Python."""
    if wire == "ag-ui":
        from ag_ui.core import Event
        from pydantic import TypeAdapter

        return TypeAdapter(Event).validate_json
    if wire == "openai":
        from openai.types.chat import ChatCompletionChunk

        return ChatCompletionChunk.model_validate_json
    if wire == "openai-responses":
        from openai.types.responses import ResponseStreamEvent
        from pydantic import TypeAdapter

        return TypeAdapter(ResponseStreamEvent).validate_json
    if wire == "adk":
        from google.adk.events import Event as ADKEvent

        return ADKEvent.model_validate_json
    return json.loads


def place_of(id: str) -> tuple[int, int]:
    """A frame's place: position and part. A frame that ends its event comes after its parts."""
    seq, _, part = id.rpartition(":")[2].partition(".")
    return int(seq), int(part) - 1_000_000 if part else 0
