"""A LangGraph checkpointer for one run, whose content is the run's checkpoint, and what a turn leaves of it.

It keeps the newest checkpoint of each graph and nothing older. What is written out counts a task as done only once all
that the task said has been recorded: whoever goes on says nothing twice and leaves nothing out.
"""

from __future__ import annotations

import dataclasses
import enum
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import ormsgpack
import pydantic
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from gapless.agents.files import module_named
from gapless.jsontext import without_surrogates

__all__ = ["MESSAGES", "LeftTurn", "RunSaver", "decode_left", "encode_left"]

MESSAGES = "messages"
"""The key of a graph's state that has the conversation."""

_Typed = tuple[str, bytes]
_NULL_TASK = "00000000-0000-0000-0000-000000000000"
"""Whose writes are a resumed graph's answers and a caller's updates."""


class _Content(msgspec.Struct, array_like=True):
    """Is what the saver has, without the thread's id."""

    checkpoints: list[tuple[str, str, _Typed, _Typed, str | None]]
    """Namespace, id, checkpoint, metadata, parent."""
    writes: list[tuple[str, str, str, int, str, _Typed, str]]
    """Namespace, checkpoint's id, task's id, index, channel, value, the task's path."""
    values: list[tuple[str, str, str, _Typed]]
    """Namespace, channel, version, value."""


class LeftTurn(msgspec.Struct, tag_field="framework", tag="langgraph"):
    """What `RunContext.native` holds for one turn."""

    run_id: str
    messages: tuple[str, bytes] = ("", b"")
    """Of this turn; of the whole conversation where `whole` says so."""
    whole: bool = False
    state: bytes = b""
    """The graph's checkpoint without the messages."""
    before: str = ""
    after: str = ""
    """Between which of the user's own checkpointer's checkpoints the turn was, by id."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Content).decode
encode_left = _encode
_decode_left = msgspec.msgpack.Decoder(LeftTurn).decode


def decode_left(native: bytes) -> tuple[str, LeftTurn] | None:
    """Read what a turn left: its run's id, and that; None for another framework's."""
    try:
        turn = _decode_left(native)
    except msgspec.MsgspecError:
        return None
    return turn.run_id, turn


def _names_in(data: bytes) -> set[tuple[str, str]]:
    """Return what LangGraph would import and call to read this: modules, and names in them."""
    found: set[tuple[str, str]] = set()

    def look(code: int, inner: bytes) -> None:
        try:
            value = ormsgpack.unpackb(inner, ext_hook=look, option=ormsgpack.OPT_NON_STR_KEYS)
        except ormsgpack.MsgpackDecodeError:  # an array's bytes
            return
        match value:
            case [str(module), str(name), *_]:
                found.add((module, name))

    ormsgpack.unpackb(data, ext_hook=look, option=ormsgpack.OPT_NON_STR_KEYS)
    return found


def _is_data(module: str, name: str) -> bool:
    """Tell whether a name is a class of data that this program uses: a model, a dataclass, an enum, a named tuple."""
    kind = getattr(module_named(module), name, None)
    if not isinstance(kind, type):
        return False
    named_tuple = issubclass(kind, tuple) and hasattr(kind, "_fields")
    return named_tuple or dataclasses.is_dataclass(kind) or issubclass(kind, pydantic.BaseModel | enum.Enum)


def _mended(value: Any) -> Any:
    """Return a value whose messages hold no halves of a character, which LangGraph would write as question marks."""
    if isinstance(value, list):
        mended = [_mended(one) for one in value]
        return value if all(map(operator.is_, mended, value)) else mended
    if not isinstance(value, BaseMessage):
        return value
    said = {"content": value.content} | ({"tool_calls": value.tool_calls} if isinstance(value, AIMessage) else {})
    whole = without_surrogates(said)
    return value if whole == said else value.model_copy(update=whole)


class _Serializer(SerializerProtocol):
    """Writes values as LangGraph does; one that cannot be written is kept as it is, and known to be `unwritable`.

    What a store has is data. LangGraph's own reader imports and calls whatever is named in it; here that is the types
    that LangGraph takes for safe, and classes of data."""

    def __init__(self) -> None:
        self.unwritable = ""
        """The class of a value that another worker cannot be given."""
        self._known: set[tuple[str, ...]] = set()
        self._inner = JsonPlusSerializer(allowed_msgpack_modules=None)
        self._kept: list[Any] = []

    def dumps_typed(self, obj: Any) -> _Typed:
        try:
            return self._inner.dumps_typed(_mended(obj))
        except (TypeError, ValueError) as error:
            self.unwritable = f"{type(obj).__name__}: {error}"
            self._kept.append(obj)
            return "here", str(len(self._kept) - 1).encode()

    def loads_typed(self, data: _Typed) -> Any:
        if data[0] == "here":
            return self._kept[int(data[1])]
        if data[0] == "msgpack":
            new = {one for one in _names_in(data[1]) - self._known if _is_data(*one)}
            if new:
                self._known |= new
                self._inner = JsonPlusSerializer(allowed_msgpack_modules=[*self._known])
        return self._inner.loads_typed(data)


class RunSaver(InMemorySaver):
    """Keeps the checkpoints of one run, in the thread `thread_id`. `keep_all` is for graphs with channels that are read
    out of the writes of older checkpoints."""

    def __init__(self, thread_id: str, *, keep_all: bool = False) -> None:
        self._written = _Serializer()
        super().__init__(serde=self._written)
        self._thread_id = thread_id
        self._keep_all = keep_all
        self.written: set[str] = set()
        """Tasks whose writes have been put."""
        self._finished: set[str] = set()
        """Tasks of which all is recorded."""
        self._shown: dict[str, str] = {}
        """By namespace, the checkpoint before which all is recorded."""

    @property
    def unwritable(self) -> str:
        """Returns what of the state cannot be written; empty while everything can."""
        return self._written.unwritable

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        super().put_writes(config, writes, task_id, task_path)
        self.written.add(task_id)

    # -- what is recorded -------------------------------------------------------------------------------------------

    def finish(self, task_id: str) -> None:
        """Note that all that a task said has been recorded."""
        self._finished.add(task_id)

    def advance(self, ns: str, checkpoint_id: str) -> None:
        """Note that all before a checkpoint has been recorded: older ones, and the graphs that ran between, are no
        longer needed."""
        if self._shown.get(ns) == checkpoint_id:  # told again where a graph goes on: what runs in it goes on, too
            return
        self._shown[ns] = checkpoint_id
        if self._keep_all:
            return
        checkpoints = self.storage[self._thread_id]
        inside = f"{ns}|" if ns else ""
        for other in [one for one in checkpoints if ":" in one and one != ns and one.startswith(inside)]:
            del checkpoints[other]
            self._shown.pop(other, None)
        for id in [id for id in checkpoints[ns] if id < checkpoint_id]:
            del checkpoints[ns][id]
        kept = {(other, id) for other, by_id in checkpoints.items() for id in by_id}
        for key in [key for key in self.writes if (key[1], key[2]) not in kept]:
            del self.writes[key]
        for blob in [blob for blob in self.blobs if blob[1] not in checkpoints]:
            del self.blobs[blob]

    def has(self, ns: str, checkpoint_id: str) -> bool:
        """Return whether a checkpoint has been put: LangGraph does so beside its stream."""
        return checkpoint_id in self.storage[self._thread_id][ns]

    def snapshot(self) -> bytes:
        """Return what another worker can go on from."""
        content = _Content([], [], [])
        for ns, by_id in self.storage[self._thread_id].items():
            shown = self._shown.get(ns)
            for id, (checkpoint, metadata, parent) in by_id.items():
                if shown is None or id > shown or (id < shown and not self._keep_all):
                    continue
                content.checkpoints.append((ns, id, checkpoint, metadata, parent))
                for (task, index), (_, channel, value, path) in self.writes[self._thread_id, ns, id].items():
                    if id < shown or index < 0 or task in self._finished or task == _NULL_TASK:
                        content.writes.append((ns, id, task, index, channel, value, path))
                versions = self.serde.loads_typed(checkpoint)["channel_versions"]
                content.values += self._values(ns, versions)
        return _encode(content)

    def _values(self, ns: str, versions: ChannelVersions) -> Iterator[tuple[str, str, str, _Typed]]:
        for channel, version in versions.items():
            if (value := self.blobs.get((self._thread_id, ns, channel, version))) is not None:
                yield ns, channel, str(version), value

    def restore(self, snapshot: bytes) -> None:
        """Take up what another worker left. Raises `msgspec.MsgspecError`."""
        content = _decode(snapshot)
        for ns, id, checkpoint, metadata, parent in content.checkpoints:
            self.storage[self._thread_id][ns][id] = (checkpoint, metadata, parent)
            self._shown[ns] = id
        for ns, id, task, index, channel, value, path in content.writes:
            self.writes[self._thread_id, ns, id][task, index] = (task, channel, value, path)
            self._finished.add(task)
        for ns, channel, version, value in content.values:
            self.blobs[self._thread_id, ns, channel, version] = value

    # -- turns ------------------------------------------------------------------------------------------------------

    def left(self, run_id: str, before: Sequence[BaseMessage], after: Sequence[BaseMessage] | None) -> bytes | None:
        """Return what the run leaves to the next turn: the state with the conversation as `after` of it, None where
        that is not to be told from the rest. `before` is what came before the run. None if it cannot be written."""
        if self.unwritable:
            return None
        self._shown = {ns: max(by_id) for ns, by_id in self.storage[self._thread_id].items() if by_id and ":" not in ns}
        if after is None:
            return _encode(LeftTurn(run_id, whole=True, state=self.snapshot()))
        content = _decode(self.snapshot())
        content.writes = []
        content.values = [one for one in content.values if one[:2] != ("", MESSAGES)]
        size = len(before)
        goes_on = [one.id for one in after[:size]] == [one.id for one in before]
        said = [*after[size:]] if goes_on else [*after]
        turn = LeftTurn(run_id, self.serde.dumps_typed(said), whole=not goes_on, state=_encode(content))
        return None if self.unwritable else _encode(turn)

    def begin(self, state: bytes, messages: Sequence[BaseMessage] | None) -> None:
        """Begin with the state that the last turn left, and the conversation so far."""
        self.restore(state)
        self._finished.clear()
        if messages is None:
            return
        for id, (checkpoint, _, _) in self.storage[self._thread_id][""].items():
            version = self.serde.loads_typed(checkpoint)["channel_versions"].get(MESSAGES)
            if version is not None:
                self.blobs[self._thread_id, "", MESSAGES, version] = self.serde.dumps_typed([*messages])
            assert id, "there is one"

    def messages_of(self, turn: LeftTurn) -> list[BaseMessage]:
        """Return the messages that a turn left."""
        found: list[BaseMessage] = self.serde.loads_typed(turn.messages) if turn.messages[0] else []
        return found
