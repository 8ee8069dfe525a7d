"""Another server of this folder (`of`), in which what it does is counted: `GET /counted` says how much it was so far,
and how many different bytecodes and functions since it was asked last.

Counting makes it some fifty times as slow, and changes none of the counts.
"""

from __future__ import annotations

import importlib
import json
import re
import sqlite3
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import uvloop

from bench.profile import LAYERS
from bench.short_run import DIFFERENT, FUNCTIONS

LIBRARY = "the standard library"
WAL_INDEX = struct.Struct("=16xI12x8s")
"""Of SQLite's -shm file: how many pages the log has, and which log it is; it begins anew after a checkpoint."""

counted: Counter[str] = Counter()
different: dict[CodeType, set[int]] = {}
"""Since it was asked last, the places of the bytecodes of each function that has run."""


ASKED = {
    "create_task": "tasks",
    "create_future": "futures",
    "call_soon": "callbacks",
    "call_soon_threadsafe": "callbacks from other threads",
    "call_later": "timers",
    "call_at": "timers",
}
"""What the event loop is asked for, by code in Python and by asyncio's tasks and futures."""


def counting(method: str, what: str) -> Callable[..., Any]:
    plain = getattr(uvloop.Loop, method)

    def count(*args: Any, **options: Any) -> Any:
        counted[what] += 1
        return plain(*args, **options)

    return count


Loop = type("Loop", (uvloop.Loop,), {method: counting(method, what) for method, what in ASKED.items()})

layers: dict[CodeType, str] = {}


def layer_of(code: CodeType) -> str:
    found = layers.get(code)
    if found is None:
        frame = f"{code.co_name} ({code.co_filename}:0)"
        found = next((name for name, pattern in LAYERS if re.search(pattern, frame)), "")
        found = layers[code] = found or ("other" if "site-packages" in code.co_filename else LIBRARY)
    return found


def trace(frame: FrameType, event: str, _argument: Any) -> Any:
    """Count the bytecodes of every function but those here, by the part that it is of."""
    if frame.f_code.co_filename == __file__:
        return None
    layer = f"bytecodes: {layer_of(frame.f_code)}"
    frame.f_trace_opcodes, frame.f_trace_lines = True, False
    places = different.setdefault(frame.f_code, set())

    def step(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            counted[layer] += 1
            places.add(frame.f_lasti)
        return step

    return step


class Log:
    """Counts the pages that go into the log of a SQLite file."""

    def __init__(self, path: str) -> None:
        self._index = Path(path + "-shm")
        self._pages, self._salt = 0, b""

    def look(self) -> None:
        """Between any two statements, so that no log begins anew unseen."""
        header = self._index.read_bytes()[: WAL_INDEX.size] if self._index.exists() else b""
        if len(header) == WAL_INDEX.size:
            pages, salt = WAL_INDEX.unpack(header)
            counted["pages"] += pages - self._pages if salt == self._salt else pages
            self._pages, self._salt = pages, salt


logs: list[Log] = []


def statement(db: sqlite3.Connection, sql: str) -> None:
    sys.settrace(None)
    for log in logs:
        log.look()
    sys.settrace(trace)
    counted["statements"] += 1
    if sql.startswith("BEGIN") or not (db.in_transaction or sql.startswith("PRAGMA")):  # or one by itself
        reads = sql == "BEGIN" or sql.startswith("SELECT")
        counted["transactions that read" if reads else "transactions that write"] += 1


def connect(*args: Any, _connect: Any = sqlite3.connect, **options: Any) -> Any:
    db = _connect(*args, **options)
    db.set_trace_callback(lambda sql: statement(db, sql))
    return db


def build(options: Mapping[str, str]) -> Any:
    sqlite3.connect = connect
    uvloop.new_event_loop = Loop
    app = importlib.import_module(f"bench.servers.{options['of']}").build(options)
    store = options.get("store", "")
    if store.startswith("sqlite:"):
        logs.append(Log(store.removeprefix("sqlite://")))
    threading.settrace(trace)
    sys.settrace(trace)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/counted":
            await app(scope, receive, send)
            return
        for log in logs:
            log.look()
        kinds = {DIFFERENT: sum(map(len, different.values())), FUNCTIONS: len(different)}
        different.clear()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": json.dumps({**counted, **kinds}).encode()})

    return answer
