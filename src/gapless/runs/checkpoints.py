"""What the runner keeps of a run beside what its agent saves: a frame around the agent's bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from gapless.errors import CheckpointUnreadable
from gapless.events import TokenUsage

__all__ = ["Frame", "decode_frame", "encode_frame"]

VERSION = 1
"""Of the frame. A later one may only add fields at its end, or gets another number."""


class Frame(msgspec.Struct, array_like=True, kw_only=True):
    """Is the data of a store's `Checkpoint`: everything that another worker needs to go on.

    `framework` says who wrote `data`, with its version; `data` is what the agent saved, None where it begins from the
    start. `used_s` is the time of the run that counts for its timeouts. `questions` is how many of its questions had
    been answered. `usage` and `state` are those of the context, `state` None where the agent left the session's.
    """

    version: int = VERSION
    framework: str = ""
    data: bytes | None = None
    used_s: float = 0.0
    questions: int = 0
    usage: list[TokenUsage] = []
    state: dict[str, Any] | None = None


encode_frame = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


def decode_frame(encoded: bytes, run_id: str) -> Frame:
    """Read the checkpoint `encoded` of the run `run_id`. Raises `CheckpointUnreadable`."""
    try:
        frame = _decode(encoded)
    except msgspec.DecodeError as error:
        raise CheckpointUnreadable(
            f"run {run_id}: where it stands cannot be read ({error}); ask again", run_id=run_id
        ) from None
    if frame.version != VERSION:
        raise CheckpointUnreadable(
            f"run {run_id}: another version of Gapless wrote where it stands (frame {frame.version}, here {VERSION}); "
            "ask again",
            run_id=run_id,
        )
    return frame
