"""The wire `ag-ui`: the journal as it is, one frame per event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from gapless.wires.base import RETRY_MS, Encoder

__all__ = ["AGUIEncoder"]


class AGUIEncoder(Encoder):
    """AG-UI 1.0 events, as stored."""

    name: ClassVar[str] = "ag-ui"
    stateless: ClassVar[bool] = True
    pauses: ClassVar[bool] = True

    def frames(self, event: bytes) -> Sequence[bytes]:
        return (event,)

    def encode(self, items: Sequence[tuple[int, bytes]], skip_parts: int = 0) -> bytes:
        frames = b"".join([b"id: %d\ndata: %b\n\n" % item for item in items])
        if items and items[0][0] == 1:  # the stream's first frame tells browsers how soon to come back
            return frames.replace(b"\n", b"\nretry: %d\n" % RETRY_MS, 1)
        return frames

    def reconnect(self) -> bytes:
        return b"event: reconnect\ndata: {}\n\n"
