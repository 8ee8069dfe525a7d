"""What encoding one text delta costs on a wire, in a process of its own: `python -m bench.encoding WIRE LOOPS`."""

from __future__ import annotations

import json
import sys
import time

from gapless.events import RunStartedEvent, TextMessageContentEvent, TextMessageStartEvent, encode_event
from gapless.records import RunRecord
from gapless.wire import wire

TEXTS = {"ASCII": "word ", "accents": "é" * 20, "quotation marks": "“Hi” — so ", "Chinese": "你好世界 "}
SERIES = 25
"""The quickest of so many counts: others use the processor too."""


def measure(name: str, text: str, loops: int) -> float:
    """Microseconds of CPU per delta, as a follower has it: one event at a time, from the journal to the frame."""
    record = RunRecord(id="r" * 20, session_id="s", user_id="u", agent="a", message="m", created_at=1)
    encoder = wire(name)(record)
    begun = [
        RunStartedEvent(thread_id="s", run_id=record.id),
        TextMessageStartEvent(message_id="m", role="assistant"),
    ]
    encoder.encode(encoder.sayable([(seq, encode_event(event)) for seq, event in enumerate(begun, 1)]))
    delta, seq, quickest = encode_event(TextMessageContentEvent(message_id="m", delta=text)), len(begun), float("inf")
    for _ in range(SERIES):
        began = time.process_time()
        for seq in range(seq + 1, seq + 1 + loops):  # noqa: B020  # it goes on where the last series was
            encoder.encode(encoder.sayable([(seq, delta)]))
        quickest = min(quickest, time.process_time() - began)
    return quickest / loops * 1e6


if __name__ == "__main__":
    print(json.dumps({kind: measure(sys.argv[1], text, int(sys.argv[2])) for kind, text in TEXTS.items()}))
