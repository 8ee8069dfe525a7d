"""Server-Sent Events as text: frames, and the parser of a stream of them (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from typing import NamedTuple

from gapless.errors import StreamInvalid

__all__ = ["DONE", "FRAME_BYTES_MAX", "RETRY_MS_MAX", "EventStreamParser", "Frame"]

DONE = b"[DONE]"
"""The data of the frame by which OpenAI's streams, and those like them, mark their end."""
FRAME_BYTES_MAX = 16 * 1024 * 1024
"""A frame of more is no stream that we made."""


RETRY_MS_MAX = 3_600_000
"""What a `retry:` of more comes to."""


class Frame(NamedTuple):
    """Is one Server-Sent Event, named `event`: `data` is None for a frame that only names its event, `id` for one
    without an id.
    """

    event: str
    data: str | None
    id: str | None
    raw: bytes = b""
    """The frame as it came, without comments, its lines ended by LF; only where the parser was told to keep it."""


class EventStreamParser:
    """Parses `text/event-stream` (WHATWG HTML, section 9.2.6) from bytes in pieces of any size.

    Differs from the standard in one point: a frame without data is not dropped if it names an event, because that is
    how a Gapless stream marks its end. A frame that is cut off before its blank line is never reported, nor is its id.

    Args:
        frame_bytes_max: A larger frame is refused.
        raw: Keep each frame as it came, too.
    """

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX, *, raw: bool = False) -> None:
        self.last_event_id = ""
        """The last id of a complete frame."""
        self.retry_ms: int | None = None
        """The reconnection time that the server asked for."""
        self._frame_bytes_max = frame_bytes_max
        self._frame_bytes = 0
        self._line = bytearray()
        """The begin of a line whose end has not come. It grows in place, however small the pieces are."""
        self._first_line = True
        self._skip_lf = False
        self._data: list[str] = []
        self._event = ""
        self._id: str | None = None
        self._raw: list[bytes] | None = [] if raw else None

    def feed(self, piece: bytes) -> list[Frame]:
        """Return the frames that `piece` completes. Raises `StreamInvalid` for a frame over the limit."""
        frames: list[Frame] = []
        if self._skip_lf and piece:
            self._skip_lf = False
            if piece[:1] == b"\n":  # the second half of a CRLF
                piece = piece[1:]
        for line in piece.splitlines(keepends=True):  # of bytes: at LF, CRLF and CR only, as the standard wants
            self._frame_bytes += len(line)
            if self._frame_bytes > self._frame_bytes_max:
                raise StreamInvalid(f"a frame of the stream is over frame_bytes_max={self._frame_bytes_max}")
            if line[-1:] not in (b"\n", b"\r"):
                self._line += line
                break
            whole = line.rstrip(b"\r\n")
            if self._line:
                whole = bytes(self._line + whole)
                self._line.clear()
            self._take(whole, frames)
        self._skip_lf = self._skip_lf or piece[-1:] == b"\r"
        return frames

    def _take(self, line: bytes, frames: list[Frame]) -> None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            if self._id is not None:
                self.last_event_id = self._id
            if self._data or self._event:
                data = "\n".join(self._data) if self._data else None
                raw = b"\n".join([*self._raw, b"", b""]) if self._raw else b""
                frames.append(Frame(self._event or "message", data, self._id, raw))
            self._data, self._event, self._id, self._frame_bytes = [], "", None, 0
            if self._raw:
                self._raw = []
            return
        raw_name, _, raw_value = line.partition(b":")
        if not raw_name:  # a comment; keep-alives must not add up to a large frame
            self._frame_bytes -= len(line)
        elif self._raw is not None:
            self._raw.append(line)
        value = raw_value.removeprefix(b" ").decode("utf-8", "replace")
        match raw_name:
            case b"data":
                self._data.append(value)
            case b"event":
                self._event = value
            case b"id" if "\0" not in value:
                self._id = value
            case b"retry" if value.isascii() and value.isdigit():
                self.retry_ms = int(min(float(value), RETRY_MS_MAX))  # `int` itself reads so many digits only
