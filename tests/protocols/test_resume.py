"""Every wire, cut at every position: what comes after the cut is what an uncut stream would have sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gapless.errors import RunFailed
from gapless.events import ResumeEntry, RunFinishedEvent, RunFinishedInterruptOutcome
from gapless.journals.merge import merge_deltas
from gapless.protocols import WIRES
from gapless.records import RunRecord
from gapless.runs.runner import Runner
from gapless.wire import parse_cursor, wire
from tests.support.rich import rich

SCRIPTS = ["rich", "typed", "error", "approve", "live"]
_ID = re.compile(rb"^id: (.+)$", re.MULTILINE)


async def journal(script: str) -> tuple[RunRecord, list[bytes]]:
    """The record and the stored events of one scripted run."""
    async with Runner(rich) as runner:
        run = await runner.start(script, run_id=f"run-{script}")
        if script == "approve":
            async for event in run.events():
                if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                    (asked,) = event.outcome.interrupts
                    await run.answer(
                        [ResumeEntry(interrupt_id=asked.id, status="resolved", payload={"approved": True})]
                    )
        record = await run.wait()
        if script == "error":
            with pytest.raises(RunFailed):
                await run.raise_if_failed()
        events: list[bytes] = []
        while more := await runner.store.read(run.id, len(events), 1000):
            events += more
        return record, events


def split(stream: bytes) -> list[bytes]:
    assert stream.endswith(b"\n\n")
    return [frame + b"\n\n" for frame in stream[:-2].split(b"\n\n")]


def id_of(frame: bytes) -> str:
    found = _ID.findall(frame)
    assert len(found) == 1, frame
    return str(found[0].decode())


def encoded(
    name: str, record: RunRecord, events: list[bytes], cursor: str | None = None, *, merge: bool = False
) -> bytes:
    """What a client that comes with this cursor gets."""
    encoder = wire(name)(record)
    at = parse_cursor(cursor or "0", record.id)
    encoder.skip(events[: at.seq])
    rest = events[at.seq :]
    items = merge_deltas(at.seq + 1, rest) if merge and not at.part else list(enumerate(rest, at.seq + 1))
    return encoder.encode(items, at.part) + encoder.end(len(events))


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name", list(WIRES))
async def test_the_tail_after_any_id_is_the_uncut_tail_byte_for_byte(name: str, script: str) -> None:
    record, events = await journal(script)
    whole = encoded(name, record, events)
    frames = split(whole)
    assert b"".join(frames) == whole
    ids = [id_of(frame) for frame in frames]
    assert len(set(ids)) == len(ids)
    assert all(len(id) <= 128 and id.isascii() for id in ids)
    for position, id in enumerate(ids, 1):
        tail = encoded(name, record, events, id)
        expected = b"".join(frames[position:]) if position < len(frames) else frames[-1]
        assert tail == expected, f"after id {id}"


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name", list(WIRES))
async def test_merged_and_unmerged_tails_come_to_the_same(name: str, script: str) -> None:
    record, events = await journal(script)
    frames = split(encoded(name, record, events))
    ids = [id_of(frame) for frame in frames]
    smaller = 0
    for position in range(len(frames)):
        cursor = ids[position - 1] if position else None
        merged = split(encoded(name, record, events, cursor, merge=True))
        assert [id for id in map(id_of, merged) if id not in ids] == []
        assert folded(merged) == folded(frames[position:])
        smaller += len(merged) < len(frames) - position
    assert smaller > len(frames) // 2  # merging is not a no-op


async def test_the_retry_hint_comes_once() -> None:
    record, events = await journal("rich")
    for name in WIRES:
        if name != "text":  # there it goes out before the first frame
            assert encoded(name, record, events).count(b"\nretry: ") == 1, name


VOLATILE = {"sequence_number", "created", "created_at", "timestamp"}


def folded(frames: list[bytes]) -> list[Any]:
    """The frames' documents, adjacent ones that differ in one text alone joined: what clients do with deltas."""
    joined: list[Any] = []
    for frame in frames:
        data = b"\n".join(line[6:] for line in frame.splitlines() if line.startswith(b"data: "))
        document = data.decode() if not data.startswith(b"{") else _without(json.loads(data))
        shape, texts = _shape(document), list(_texts(document))
        if joined and joined[-1][0] == shape and texts:
            last = joined[-1][1]
            joined[-1] = (shape, [a + b for a, b in zip(last, texts, strict=True)])
        else:
            joined.append((shape, texts))
    return joined


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if key not in VOLATILE}
    return [_without(item) for item in value] if isinstance(value, list) else value


DELTAS = {"delta", "inputTextDelta", "text", "content", "arguments", "reasoning_content", "reasoning"}


def _shape(value: Any, key: str = "") -> Any:
    """The document with every text that may be a delta left out."""
    if isinstance(value, dict):
        return {name: _shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_shape(item, key) for item in value]
    return None if isinstance(value, str) and key in DELTAS else value


def _texts(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str) and key in DELTAS:
        yield value
