"""The frame around what an agent saves."""

from __future__ import annotations

import msgspec
import pytest

from gapless.errors import CheckpointUnreadable
from gapless.events import TokenUsage
from gapless.runs.checkpoints import Frame, decode_frame, encode_frame


def test_what_was_saved_comes_back():
    usage = [TokenUsage(model="m", input_tokens=3, output_tokens=4, total_tokens=7)]
    frame = Frame(
        framework="x 1.2", data=bytes(range(256)), used_s=1.5, questions=2, usage=usage, state={"k": [1, "é"]}
    )
    assert decode_frame(encode_frame(frame), "r") == frame
    assert decode_frame(encode_frame(Frame()), "r").data is None


def test_a_later_frame_with_more_fields_is_read():
    more = msgspec.msgpack.encode([1, "x 1.2", b"data", 0.5, 0, [], None, [], "new"])
    assert decode_frame(more, "r").data == b"data"


@pytest.mark.parametrize("encoded", [b"", b"\xff", encode_frame(Frame(version=2)), msgspec.msgpack.encode({"a": 1})])
def test_what_cannot_be_read_says_so(encoded: bytes):
    with pytest.raises(CheckpointUnreadable, match="run r"):
        decode_frame(encoded, "r")
