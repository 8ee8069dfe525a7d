"""What the Redis store calls its keys, and how records are written in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gapless.errors import StoreCorrupt
from gapless.records import (
    ModelUsage,
    RunEnd,
    RunRecord,
    RunStatus,
    SessionRecord,
    Turn,
    decode_run,
    decode_session,
    title_of,
)

__all__ = [
    "DUE",
    "ENDED",
    "RUNS",
    "SESSIONS",
    "SUBSCRIPTIONS",
    "WANTED",
    "WORKERS",
    "decode_error",
    "decode_member",
    "decode_notice",
    "decode_turn",
    "encode",
    "encode_end",
    "encode_member",
    "encode_notice",
    "number_claimed",
    "pack",
    "place_of",
    "pointer_to",
    "run_from",
    "run_key",
    "session_claimed",
    "session_from",
    "session_key",
]

WORKERS, RUNS, ENDED, SESSIONS = "{gapless}:workers", "{gapless}:runs", "{gapless}:ended", "{gapless}:sessions"
WANTED, DUE, SUBSCRIPTIONS = "{gapless}:wanted", "{gapless}:due", "{gapless}:subscriptions"

encode = msgspec.json.Encoder().encode
pack = msgspec.msgpack.Encoder().encode
decode_turn = msgspec.json.Decoder(Turn).decode
decode_member = msgspec.json.Decoder(tuple[str, str]).decode
"""A run's id and its session, from how the index lists a run."""
decode_notice = msgspec.json.Decoder(tuple[str, str, str]).decode
"""The same and a notice's id, from how the index lists a notice."""
decode_error = msgspec.json.Decoder(dict[str, str]).decode
_decode_usage = msgspec.json.Decoder(list[ModelUsage]).decode
_decode_state = msgspec.json.Decoder(dict[str, Any]).decode


def place_of(session_id: str) -> str:
    """Return what the keys of a session begin with. The braces hold the part that decides the hash slot."""
    tag = session_id.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return f"gapless:{{{tag}}}:"


def run_key(session_id: str, run_id: str) -> str:
    """Return the key of a run's record."""
    return f"{place_of(session_id)}run:{run_id}"


def session_key(session_id: str) -> str:
    """Return the key of a session's record."""
    return f"{place_of(session_id)}session"


def pointer_to(run_id: str) -> str:
    """Return the key of the claim to a run's id: a number and the session in which the run is."""
    return f"gapless:at:{run_id}"


def number_claimed(claim: bytes) -> int:
    return int(claim.partition(b" ")[0])


def session_claimed(claim: bytes) -> str:
    return claim.partition(b" ")[2].decode()


def encode_member(run_id: str, session_id: str) -> bytes:
    """Return a run as the index lists it."""
    return encode((run_id, session_id))


def encode_notice(run_id: str, session_id: str, notice_id: str) -> bytes:
    """Return a notice as the index lists it."""
    return encode((run_id, session_id, notice_id))


def encode_end(run: RunRecord, end: RunEnd) -> dict[str, Any]:
    """Return a run's end as `scripts.APPEND` takes it."""
    return {
        "at": end.ended_at,
        "title": title_of(run.message),
        "error": "" if end.error is None else encode(end.error).decode(),
        "usage": "" if end.usage is None else encode(end.usage).decode(),
        "turn": encode(end.turn).decode(),
        "state": None if end.state is None else encode(end.state).decode(),
    }


def run_from(run_id: str, fields: Sequence[Any], decode: Callable[[bytes], RunRecord] = decode_run) -> RunRecord:
    """Make a run's record of `scripts.RUN_FIELDS`. Raises `StoreCorrupt`."""
    record, owner, status, last, started_at, ended_at, error, expired, takeovers, _, usage = fields
    try:
        run = decode(record)
        run.owner, run.status, run.last_seq = owner.decode(), RunStatus(status.decode()), int(last)
        run.started_at = None if started_at is None else int(started_at)
        run.ended_at = None if ended_at is None else int(ended_at)
        run.error = decode_error(error) if error else None
        run.takeovers = int(takeovers or 0)
        run.usage = _decode_usage(usage) if usage else None
    except (AttributeError, TypeError, ValueError) as cause:  # a field that is not there, or not Gapless's
        raise StoreCorrupt(f"run {run_id}: its record is damaged", run_id=run_id) from cause
    run.expired = expired is not None
    return run


def session_from(session_id: str, fields: Sequence[Any]) -> SessionRecord:
    """Make a session's record of `scripts.SESSION_FIELDS`, or as lists have it of all but the state. Raises
    `StoreCorrupt`."""
    record, updated_at, title, *state = fields
    try:
        session = decode_session(record)
        session.title = session.title if title is None else title.decode()
        session.updated_at, session.state = int(updated_at), _decode_state(state[0]) if state else {}
    except (TypeError, ValueError) as cause:
        raise StoreCorrupt(f"session {session_id}: its record is damaged") from cause
    return session
