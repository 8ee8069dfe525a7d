"""The large parts of a run's events, kept aside as blobs: the event that has one says where it is and stays small.

A blob is kept before the event that names it is accepted, for as long as the run's events, in pieces: the first says
what it is and is written last, so that a blob is whole or not there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import msgspec

from gapless.agents.base import AgentItem
from gapless.config import Limits
from gapless.errors import AgentInvalid, BlobNotFound, CursorExpired, RunFenced, RunNotFound
from gapless.events import (
    ContentPart,
    CustomEvent,
    DataSource,
    TextPart,
    ToolCallResultEvent,
    UrlSource,
    decode_event,
    encode_event,
)
from gapless.fold import FILE
from gapless.journals.contract import BLOB_PIECE_BYTES, Store
from gapless.journals.journal import Journal
from gapless.onetext import FILE_NAME
from gapless.records import blobs_at
from gapless.runs.recorder import Recorder
from gapless.runs.retrying import patiently

__all__ = ["LARGE", "Blob", "Blobs", "BlobsOfRun"]

LARGE = frozenset({CustomEvent, ToolCallResultEvent})
"""Events that may hold something large."""
FILE_INLINE_BYTES_MAX = 64 * 1024
"""A smaller file stays in its event: it costs no second request, and a client has it for good."""
RESULT_CHARS_SHOWN = 32 * 1024
"""What stays of a tool's result that is kept aside: the model has read all of it, the event only informs."""
ENVELOPE_BYTES = 4 * 1024
"""What an event says beside its large part, at most."""
JSON_TYPE, TEXT_TYPE, UNKNOWN_TYPE = "application/json", "text/plain; charset=utf-8", "application/octet-stream"

PAGE_EVENTS = 256
"""What is read at once of a run to find a file in it."""

_Data: TypeAlias = str | bytes | bytearray | memoryview
_CUSTOM = b'{"type":"CUSTOM"'
_FILE = b'"name":"%b"' % FILE.encode()
_encode = msgspec.json.Encoder().encode


class Blob(msgspec.Struct, frozen=True):
    """Says what a blob is."""

    mime_type: str
    size: int
    """In bytes."""

    def digest(self, blob_id: str) -> str:
        """Tell it from all others, whatever it is called: what is kept aside is called by what is in it."""
        return blob_id


class _File(Blob, frozen=True):
    """Is one that is in its event, and was read with it. It is called by its place in the run."""

    data: bytes

    def digest(self, blob_id: str) -> str:
        return _digest(self.data)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


_decode_blob = msgspec.json.Decoder(Blob).decode


class BlobsOfRun:
    """Keeps the blobs of one run that this worker executes."""

    def __init__(self, store: Store, journal: Journal, limits: Limits, public_url: str) -> None:
        self._store = store
        self._journal = journal
        self._limits = limits
        self._public_url = public_url

    async def record(self, item: AgentItem, recorder: Recorder) -> None:
        """Record what an agent says. While what is too large in it is set aside, nothing is saved: the agent counts it
        as said. Raises what `set_aside` and `Recorder.add` raise."""
        if type(item) not in LARGE:
            recorder.add(item)
            return
        async with recorder.setting_aside:
            recorded = await self.set_aside(item)
            recorder.add(recorded)
        if recorded is not item:
            await asyncio.sleep(0)  # what is saved beside it is saved here, before the agent says more

    async def set_aside(self, event: AgentItem) -> AgentItem:
        """Return the event as it is recorded: what is too large in it is kept, and named. An event that is no sound one
        comes back as it is. Raises `AgentInvalid`, `RunFenced`, `StoreUnavailable`."""
        if isinstance(event, ToolCallResultEvent):
            return await self._result(event)
        if isinstance(event, CustomEvent) and event.name == FILE:
            return await self._file(event, self._file_of(event.value))
        if isinstance(event, CustomEvent):
            return await self._custom(event)
        return event

    async def _result(self, event: ToolCallResultEvent) -> AgentItem:
        content = event.content
        if isinstance(content, list):
            return msgspec.structs.replace(event, content=[await self._part(part) for part in content])
        if 6 * len(content) < self._room:  # a character takes at most 6 bytes
            return event
        if len(encode_event(event)) <= self._limits.event_bytes_max:
            return event
        data = content.encode(errors="replace")
        kept = await self._keep(TEXT_TYPE, data)
        shown = content[: min(RESULT_CHARS_SHOWN, self._room // 6)]
        note = f"\n… {len(content) - len(shown)} more characters, which the model got, are left out here"
        if kept is not None:
            note += f"; all {len(content)}: {kept['url']}"
        return msgspec.structs.replace(event, content=shown + note)

    async def _part(self, part: ContentPart) -> ContentPart:
        """Return a picture or a file that came with a result, by reference where it is large."""
        if isinstance(part, TextPart) or not isinstance(part.source, DataSource):
            return part
        if len(part.source.value) <= min(FILE_INLINE_BYTES_MAX, self._room // 2):
            return part
        try:
            data = base64.b64decode(part.source.value, validate=True)
        except (ValueError, binascii.Error):
            raise AgentInvalid(f"run {self._journal.run_id}: a file's data is not base64") from None
        if (kept := await self._keep(part.source.mime_type, data)) is None:
            return TextPart(text=f"[{part.source.mime_type} of {len(data)} bytes: over blob_bytes_max]")
        return msgspec.structs.replace(part, source=UrlSource(value=kept["url"], mime_type=part.source.mime_type))

    def _file_of(self, value: Any) -> dict[str, Any]:
        """Return what a file's event says, with a type. Raises `AgentInvalid` where no client could show it."""
        given = value if isinstance(value, dict) else {}
        where = [given.get(key) for key in ("data", "url") if given.get(key) is not None]
        sound = where and isinstance(given.get("url"), str | None) and isinstance(given.get("data"), _Data | None)
        if not sound or not isinstance(given.get("mimeType"), str | None):
            shape = '{"mimeType": "image/png", "data": bytes or base64} or {"mimeType": …, "url": …}'
            raise AgentInvalid(f"run {self._journal.run_id}: the value of {FILE} is {shape}")
        return given | {"mimeType": given.get("mimeType") or UNKNOWN_TYPE}

    async def _file(self, event: CustomEvent, value: dict[str, Any]) -> AgentItem:
        data = value.get("data")
        if isinstance(data, str) and len(data) > FILE_INLINE_BYTES_MAX:
            try:
                data = base64.b64decode(data, validate=True)
            except (ValueError, binascii.Error):
                raise AgentInvalid(f"run {self._journal.run_id}: a file's data is not base64") from None
        if not isinstance(data, bytes | bytearray | memoryview):
            return msgspec.structs.replace(event, value=value)
        data, rest = bytes(data), {key: one for key, one in value.items() if key != "data"}
        if len(data) <= min(FILE_INLINE_BYTES_MAX, self._room // 2):
            rest["data"] = base64.b64encode(data).decode()
        elif (kept := await self._keep(value["mimeType"], data)) is None:
            return self._left_out("file", len(data))
        else:
            rest |= kept
        return msgspec.structs.replace(event, value=rest)

    async def _custom(self, event: CustomEvent) -> AgentItem:
        try:
            encoded = encode_event(event)
        except Exception:  # the recorder says what is wrong with it
            return event
        if len(encoded) <= self._limits.event_bytes_max:
            return event
        data = _encode(event.value)
        kept = await self._keep(JSON_TYPE, data)
        return self._left_out(event.name, len(data)) if kept is None else msgspec.structs.replace(event, value=kept)

    def _left_out(self, what: str, size: int) -> AgentItem:
        limit = self._limits.blob_bytes_max
        said = f"a {what[:64]} of {size} bytes was left out: it is over blob_bytes_max={limit}"
        return CustomEvent(name="gapless.notice", value={"code": "blob_too_large", "message": said})

    @property
    def _room(self) -> int:
        return max(0, self._limits.event_bytes_max - ENVELOPE_BYTES)

    async def _keep(self, mime_type: str, data: bytes) -> dict[str, Any] | None:
        """Keep `data` and return what an event says in its place; None where it is too large to be kept."""
        run_id = self._journal.run_id
        if len(data) > self._limits.blob_bytes_max:
            return None
        blob = Blob(mime_type, len(data))
        blob_id = await asyncio.to_thread(_digest, data)
        pieces = [data[start : start + BLOB_PIECE_BYTES] for start in range(0, len(data), BLOB_PIECE_BYTES)]
        try:
            for number, piece in [*enumerate(pieces, 1), (0, _encode(blob))]:
                await patiently(self._store.keep_blob, run_id, blob_id, number, piece)
                self._journal.aside_bytes += len(piece)
                await asyncio.sleep(0)  # other runs have their turn between two pieces
        except RunNotFound:
            raise RunFenced(f"run {run_id} is another worker's", run_id=run_id) from None
        url = blobs_at(self._public_url, run_id) + blob_id
        return {"mimeType": mime_type, "size": len(data), "blob": blob_id, "url": url}


class Blobs:
    """Reads the blobs of any run, and the files that are in its events as if they were some."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, run_id: str, blob_id: str) -> Blob:
        """Return what a blob is. Raises `BlobNotFound`, `StoreUnavailable`."""
        if blob_id.startswith(FILE_NAME):
            return await self._file(run_id, blob_id)
        head = await self._store.blob(run_id, blob_id, 0)
        if head is None:
            raise _none(run_id, blob_id)
        return _decode_blob(head)

    async def read(self, run_id: str, blob_id: str, blob: Blob, start: int, stop: int) -> AsyncIterator[bytes]:
        """Read the bytes of the `blob` that was found from `start` to `stop` (not included), piece by piece. Raises
        `BlobNotFound` when it is dropped meanwhile, `StoreUnavailable`."""
        if isinstance(blob, _File):
            yield blob.data[start:stop]
            return
        while start < stop:
            number, skip = divmod(start, BLOB_PIECE_BYTES)
            piece = await self._store.blob(run_id, blob_id, number + 1)
            if piece is None:
                raise BlobNotFound(f"run {run_id}: its blobs are past their retention", run_id=run_id)
            part = piece[skip : skip + stop - start]
            yield part
            start += len(part)

    async def _file(self, run_id: str, name: str) -> _File:
        """Return the file that is in an event, by its number among the run's files. Raises `BlobNotFound`,
        `StoreUnavailable`."""
        left, after = int(name.removeprefix(FILE_NAME)), 0
        try:
            while left > 0 and (events := await self._store.read(run_id, after, PAGE_EVENTS)):
                after += len(events)
                for event in filter(_may_be_a_file, events):
                    found = decode_event(event)
                    left -= isinstance(found, CustomEvent) and found.name == FILE
                    if left == 0 and isinstance(found, CustomEvent) and isinstance(found.value, dict):
                        data = base64.b64decode(found.value["data"], validate=True)
                        return _File(str(found.value.get("mimeType") or UNKNOWN_TYPE), len(data), data)
                await asyncio.sleep(0)
        except (CursorExpired, KeyError, TypeError, ValueError):  # gone, kept aside or elsewhere, or no base64
            pass
        raise _none(run_id, name)


def _none(run_id: str, blob_id: str) -> BlobNotFound:
    return BlobNotFound(
        f"run {run_id} has no blob {blob_id[:64]!r}, or its events are past their retention", run_id=run_id
    )


def _may_be_a_file(event: bytes) -> bool:
    return event.startswith(_CUSTOM) and _FILE in event
