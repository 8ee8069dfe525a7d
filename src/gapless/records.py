"""Records: what is kept of runs, sessions and turns, whatever keeps it."""

from __future__ import annotations

import enum
import re
import time
import typing
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from gapless.config import RunConfig
from gapless.errors import CursorInvalid, InputInvalid, InputTooLarge, SessionBusy, SessionNotFound
from gapless.events import Context, Message, Tool, UserMessage
from gapless.notify import Webhook

__all__ = [
    "ACTIVE",
    "AFTER",
    "LISTED_CHARS_MAX",
    "NOT_IN_TITLES",
    "Listing",
    "RunEnd",
    "RunRecord",
    "RunRequest",
    "RunStatus",
    "SessionRecord",
    "Turn",
    "blobs_at",
    "branch",
    "changed_state",
    "check_state",
    "decode_run",
    "decode_session",
    "ended_run",
    "listed_run",
    "listed_session",
    "no_place",
    "now_ms",
    "place_in_runs",
    "place_in_sessions",
    "place_of_session",
    "rewrite",
    "session_after",
    "session_busy",
    "session_of",
    "session_taken",
    "title_of",
]

TITLE_MADE_CHARS_MAX = 80
"""Of a title that is a message's first line."""
TITLE_READ_CHARS_MAX = 1000
"""So much of a message is looked at for it."""
NOT_IN_TITLES = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SEQUENCES = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)")
"""What sets a terminal's colours, its title and its links (ECMA-48, sections 5.4 and 8.3.89)."""
LISTED_CHARS_MAX = 500
"""Characters of a text in a list."""


class RunStatus(enum.StrEnum):
    """Says how far a run is: queued → running ⇄ waiting → finished | failed | cancelled. The last three are final."""

    QUEUED = "queued"
    """Accepted; waits for the session's earlier run."""
    RUNNING = "running"
    """The agent is at work."""
    WAITING = "waiting"
    """Interrupted: a person has to answer before it goes on."""
    FINISHED = "finished"
    """The agent has answered."""
    FAILED = "failed"
    """It ended with an error: the record's `error` says which."""
    CANCELLED = "cancelled"
    """Somebody ended it."""

    @property
    def ended(self) -> bool:
        """True of the last three."""
        return self not in ACTIVE


ACTIVE = frozenset({RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING})


class _Record(msgspec.Struct, omit_defaults=True):
    pass


class ModelUsage(_Record, kw_only=True):
    """Counts what one model took in one run: `model` of `provider`, asked in `requests` calls (0: not known).

    Tokens. Of `input_tokens`, `cached_input_tokens` came from the provider's cache and `cache_write_input_tokens` went
    into it; of `output_tokens`, `reasoning_tokens` were thought and not said.
    """

    provider: str | None = None
    model: str | None = None
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    reasoning_tokens: int = 0


class RunRequest(_Record, kw_only=True):
    """Keeps what a run was asked beside its message, only for runs that may be restarted: the session's `state`, the
    client's `tools`, `context` and `forwarded_props`.
    """

    messages: list[Message] | None = None
    """The history that the client sent along; None for the session's own."""
    state: dict[str, Any] | None = None
    tools: list[Tool] | None = None
    context: list[Context] | None = None
    forwarded_props: Any = None


class RunRecord(_Record, kw_only=True):
    """Describes one run, as `GET /runs/{id}` shows it (less `owner`, `takeovers`, `digest`, `notify`).

    The run `id` of `agent` in session `session_id`, asked by `user_id`, and its `status`. `created_at`, `started_at`
    and `ended_at` are milliseconds since the Unix epoch. `config` is what was asked for, `request` what a restart
    needs.
    """

    id: str
    session_id: str
    user_id: str
    agent: str
    message: str
    """The user's message as text (media left out)."""
    created_at: int
    status: RunStatus = RunStatus.QUEUED
    started_at: int | None = None
    ended_at: int | None = None
    last_seq: int = 0
    """Position of the newest accepted event."""
    error: dict[str, str] | None = None
    """`code` and `message` of a run that failed or was cancelled."""
    owner: str = ""
    """Id of the worker that executes it; "" while it is nobody's."""
    takeovers: int = 0
    """How often a worker was lost with it since its last checkpoint."""
    digest: str = ""
    """Hash of what was asked, to tell a repeated start from a conflicting one."""
    input: UserMessage | None = None
    """The user's message whole, for the session's turn."""
    config: RunConfig | None = None
    request: RunRequest | None = None
    expired: bool = False
    """The journal's events are past their retention and gone."""
    usage: list[ModelUsage] | None = None
    """What each model took, once the run has ended."""
    notify: Webhook | None = None
    """Who is told when it waits or has ended, beside those who are told of all runs."""


class SessionRecord(_Record, kw_only=True):
    """Describes one conversation: session `id` of `user_id` with `agent`.

    `created_at` and `updated_at` are milliseconds since the Unix epoch. `title` is the first line of its first message
    or what somebody has called it, `state` what its agents keep in it.
    """

    id: str
    user_id: str
    agent: str
    created_at: int
    updated_at: int
    title: str = ""
    state: dict[str, Any] = {}


class Turn(_Record, kw_only=True):
    """Keeps what the ended run `run_id` adds to its session: the user's message and all that came back."""

    run_id: str
    messages: msgspec.Raw
    """A JSON array of AG-UI messages, the user's first; empty where the run ended before it began."""
    native: bytes | None = None
    """The turn in the agent framework's own form."""


class RunEnd(_Record, kw_only=True):
    """Goes with the append that holds a run's terminal event: both are accepted, or neither.

    The session gets the `turn`, `ended_at` as its `updated_at`, the state, and the run's message as title where it has
    none. The run gets `status`, `ended_at` the `usage` and, where it failed, `error`.
    """

    status: RunStatus
    ended_at: int
    turn: Turn
    error: dict[str, str] | None = None
    state: dict[str, Any] | None = None
    """The session's new state; None leaves it."""
    usage: list[ModelUsage] | None = None


_encode = msgspec.json.Encoder().encode
_decode_run = msgspec.json.Decoder(RunRecord).decode
_decode_session = msgspec.json.Decoder(SessionRecord).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_RecordT = TypeVar("_RecordT", bound=msgspec.Struct)
_CHANGES: dict[type[_Record], dict[str, Any]] = {
    RunRecord: {
        "status": RunStatus.QUEUED,
        "started_at": None,
        "ended_at": None,
        "last_seq": 0,
        "error": None,
        "takeovers": 0,
        "expired": False,
        "usage": None,
    },
    SessionRecord: {"updated_at": None, "title": "", "state": {}},
}
"""What of a record changes after it was made, and what it is where it is left out."""
_CHANGING = {kind: attrgetter(*changes) for kind, changes in _CHANGES.items()}


def decode_run(data: bytes) -> RunRecord:
    """Decode a run's record, also of another version: a field that this one does not know is left out, one whose value
    it does not know has its default. Raises `ValueError` where not even the run's id, session, user can be read."""
    try:
        return _decode_run(data)
    except msgspec.ValidationError:
        return _known(RunRecord, msgspec.json.decode(data))


def decode_session(data: bytes) -> SessionRecord:
    """Decode a session's record as `decode_run` does a run's."""
    try:
        return _decode_session(data)
    except msgspec.ValidationError:
        return _known(SessionRecord, msgspec.json.decode(data))


def rewrite(data: bytes, record: RunRecord | SessionRecord) -> bytes:
    """Write into an encoded record what changes after it was made. The rest stays as it is: another version may know
    more of it than this one."""
    changes = _CHANGES[type(record)]
    fields: dict[str, Any] = _decode_fields(data)
    for name, default, value in zip(changes, changes.values(), _CHANGING[type(record)](record), strict=True):
        if value != default:
            fields[name] = value
        elif name in fields:
            del fields[name]
    return _encode(fields)


def ended_run(data: bytes, end: RunEnd, last_seq: int) -> bytes:
    """Write a run's end into its encoded record, which is not decoded for it. Raises `ValueError`."""
    fields: dict[str, Any] = _decode_fields(data)
    fields["status"], fields["ended_at"], fields["last_seq"] = end.status, end.ended_at, last_seq
    if end.error is not None:
        fields["error"] = end.error
    if end.usage is not None:
        fields["usage"] = end.usage
    return _encode(fields)


def session_after(data: bytes, end: RunEnd, run: bytes) -> bytes:
    """Write the end of the encoded `run` into the encoded record of its session. Raises `ValueError`."""
    fields: dict[str, Any] = _decode_fields(data)
    fields["updated_at"] = end.ended_at
    if not fields.get("title") and (title := title_of(decode_run(run).message)):
        fields["title"] = title
    if end.state is not None:
        fields["state"] = end.state
    return _encode(fields)


def _known(cls: type[_RecordT], value: Any) -> _RecordT:
    """What of a JSON object can be read as a struct. Raises `ValueError` when that is too little."""
    if not isinstance(value, dict):
        raise msgspec.ValidationError(f"a {cls.__name__} is an object")
    fields = {}
    for field in msgspec.structs.fields(cls):
        if field.encode_name not in value:
            if field.required:
                raise msgspec.ValidationError(f"a {cls.__name__} without {field.encode_name}")
            continue
        try:
            fields[field.name] = _converted(field.type, value[field.encode_name])
        except ValueError:
            if field.required:
                raise
    return cls(**fields)


def _converted(type_: Any, value: Any) -> Any:
    try:
        return msgspec.convert(value, type_)
    except ValueError:
        for choice in typing.get_args(type_) or (type_,):
            if isinstance(choice, type) and issubclass(choice, msgspec.Struct):
                return _known(choice, value)
        raise


# -- lists ----------------------------------------------------------------------------------------------------------


class Listing(list[_RecordT]):
    """Holds one page of a list: records without what they may be long by. `next` is given as `after` to get the page
    behind this one; None where there is no more.

    A listed run has no `input`, no `request`, no model settings, and at most `LISTED_CHARS_MAX` characters of its
    message and its error; a listed session has no state.
    """

    def __init__(self, records: Iterable[_RecordT] = (), next: str | None = None) -> None:
        super().__init__(records)
        self.next = next


class _ListedRun(_Record, kw_only=True):
    """Reads of a run's record what a list shows; the rest is passed over, however long."""

    id: str
    session_id: str
    user_id: str
    agent: str
    message: str
    created_at: int
    status: RunStatus = RunStatus.QUEUED
    started_at: int | None = None
    ended_at: int | None = None
    last_seq: int = 0
    error: dict[str, str] | None = None
    owner: str = ""
    takeovers: int = 0
    digest: str = ""
    config: RunConfig | None = None
    expired: bool = False
    usage: list[ModelUsage] | None = None


class _ListedSession(_Record, kw_only=True):
    id: str
    user_id: str
    agent: str
    created_at: int
    updated_at: int
    title: str = ""


_decode_listed_run = msgspec.json.Decoder(_ListedRun).decode
_decode_listed_session = msgspec.json.Decoder(_ListedSession).decode


def listed_run(run: RunRecord | bytes) -> RunRecord:
    """Return a run as lists have it, from its record or that record's JSON. Raises as `decode_run`."""
    if isinstance(run, bytes):
        try:
            fields = msgspec.structs.asdict(_decode_listed_run(run))
        except msgspec.ValidationError:
            fields = msgspec.structs.asdict(decode_run(run))
    else:
        fields = msgspec.structs.asdict(run)
    config, error = fields["config"], fields["error"]
    if config is not None and config.model_settings:
        fields["config"] = msgspec.structs.replace(config, model_settings={})
    fields["error"] = error and {name: _cut(text) for name, text in error.items()}
    return RunRecord(**{**fields, "message": _cut(fields["message"]), "input": None, "request": None, "notify": None})


def listed_session(session: SessionRecord | bytes) -> SessionRecord:
    """Return a session as lists have it, from its record or that record's JSON. Raises as `decode_session`."""
    if isinstance(session, bytes):
        try:
            return SessionRecord(**msgspec.structs.asdict(_decode_listed_session(session)))
        except msgspec.ValidationError:
            session = decode_session(session)
    return msgspec.structs.replace(session, state={})


def _cut(text: str) -> str:
    return text if len(text) <= LISTED_CHARS_MAX else text[: LISTED_CHARS_MAX - 1] + "…"


def place_in_runs(after: str | None) -> int | None:
    """Read the place in a list of runs that `after` names; None for the list's beginning. Raises `CursorInvalid`."""
    if after is None:
        return None
    if not (after.isascii() and after.isdigit() and len(after) < 18):
        raise no_place(after)
    return int(after)


def place_in_sessions(after: str | None) -> tuple[int, str] | None:
    """Read the place in a list of sessions, when one was used last and its id, as `place_in_runs` does."""
    if after is None:
        return None
    used, colon, session_id = after.partition(":")
    if not (colon and used.isascii() and used.isdigit() and len(used) < 18):
        raise no_place(after)
    return int(used), session_id


def place_of_session(updated_at: int, session_id: str) -> str:
    """Return the place in a list of sessions that is behind this one."""
    return f"{updated_at}:{session_id}"


def no_place(after: str) -> CursorInvalid:
    """Return the error for a place that no page of a list has given."""
    return CursorInvalid(f"{after[:64]!r} is no place in this list; send back its `next` as it came")


# -- state ----------------------------------------------------------------------------------------------------------


def check_state(state: Any, bytes_max: int | None, of: str) -> None:
    """Raises `InputTooLarge` for state that has more than `bytes_max` bytes as JSON, `InputInvalid` for what cannot be
    written so. `of` says whose it is."""
    if not state or bytes_max is None:
        return
    try:
        size = len(_encode(state))
    except (TypeError, ValueError, NotImplementedError, OverflowError, RecursionError) as error:
        raise InputInvalid(f"the state of {of} cannot be written as JSON: {error}") from None
    if size > bytes_max:
        raise InputTooLarge(
            f"the state of {of} would have {size} bytes as JSON, over state_bytes_max={bytes_max}: keep what is long "
            "elsewhere, and in the state where it is"
        )


def changed_state(session: SessionRecord, changes: dict[str, Any], bytes_max: int | None) -> dict[str, Any]:
    """Return the session's state with these keys set. Raises `InputTooLarge`."""
    state = {**session.state, **changes}
    check_state(state, bytes_max, f"session {session.id}")
    return state


AFTER = "gapless.after"
"""Key in the metadata of a turn's first message: the run that it is asked after, "" for none. Without it that is the
newest run of the conversation, unless the message is an earlier one's, by its id."""


class _Head(msgspec.Struct):
    id: str
    metadata: msgspec.Raw = msgspec.Raw()


_decode_heads = msgspec.json.Decoder(list[_Head]).decode
_decode_metadata = msgspec.json.Decoder(dict[str, Any] | None).decode


def branch(turns: Sequence[Turn], asked: UserMessage | str | None = None) -> list[Turn]:
    """Return the turns by which a conversation has come to where it is, or to before the message `asked` is asked.

    A turn that asks an earlier one's message again, by its id, has taken the place of that turn and of all that
    followed; so has one whose message says after which run it is asked.

    Args:
        turns: All turns of the session, oldest first.
        asked: The message that is asked now, perhaps again, or its id.
    """
    line = _Line()
    for turn in turns:
        heads = _decode_heads(turn.messages)
        if heads:
            raw = bytes(heads[0].metadata)
            after = (_decode_metadata(raw) or {}).get(AFTER) if AFTER.encode() in raw else None
            line.leave(heads[0].id, after)
            line.add(heads[0].id, turn)
    if isinstance(asked, UserMessage):
        line.leave(asked.id, (asked.metadata or {}).get(AFTER))
    elif asked is not None:
        line.leave(asked, None)
    return line.turns


class _Line:
    """Turns by which a conversation has come to where it is, and those that it has left."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self._ids: list[str] = []
        self._by_id: dict[str, int] = {}
        """Places of turns, by the ids of their first messages,"""
        self._by_run: dict[str, int] = {}
        """and by their runs."""
        self._left: dict[str, tuple[list[str], list[Turn]]] = {}
        """The line up to and with a turn that was left, by its run."""

    def add(self, id: str, turn: Turn) -> None:
        self._by_id[id] = self._by_run[turn.run_id] = len(self.turns)
        self.turns.append(turn)
        self._ids.append(id)

    def leave(self, id: str, after: Any) -> None:
        """Go back to before the turn that asks the message of this id, or to after that run; perhaps on a line that was
        left."""
        place = self._by_id.get(id, len(self.turns))
        if after == "":
            place = 0
        elif isinstance(after, str) and after in self._by_run:
            place = self._by_run[after] + 1
        elif isinstance(after, str) and after in self._left:
            ids, turns = self._left[after]
            self._cut(0)
            for one in zip(ids, turns, strict=True):
                self.add(*one)
            return
        if place < len(self.turns):
            self._cut(place)

    def _cut(self, place: int) -> None:
        for at in range(place, len(self.turns)):
            self._left[self.turns[at].run_id] = self._ids[: at + 1], self.turns[: at + 1]
            del self._by_id[self._ids[at]], self._by_run[self.turns[at].run_id]
        del self.turns[place:], self._ids[place:]


def blobs_at(public_url: str, run_id: str) -> str:
    """Return the address of a run's blobs, to the last slash."""
    return f"{public_url.rstrip('/')}/runs/{quote(run_id, safe='')}/blobs/"


def title_of(message: str) -> str:
    """Return a session's title: the first line of `message`, its first, that has something to read. Without what a
    title may not have that is given: control characters, of a terminal's sequences all."""
    head = message.lstrip()[:TITLE_READ_CHARS_MAX]
    for line in _SEQUENCES.sub("", head).splitlines():
        if NOT_IN_TITLES.search(line):
            line = " ".join(NOT_IN_TITLES.sub(" ", line).split())
        if line := line.strip():
            break
    else:
        return ""
    return line if len(line) <= TITLE_MADE_CHARS_MAX else line[: TITLE_MADE_CHARS_MAX - 1] + "…"


def session_of(run: RunRecord) -> SessionRecord:
    """Return the record of the session that `run` begins."""
    return SessionRecord(
        id=run.session_id,
        user_id=run.user_id,
        agent=run.agent,
        created_at=run.created_at,
        updated_at=run.created_at,
        title=title_of(run.message),
    )


def session_taken(session_id: str) -> SessionNotFound:
    """Return the error for whoever would begin in another's session `session_id`."""
    return SessionNotFound(f"no session {session_id} of yours, and the id is taken; choose another")


def session_busy(session_id: str, run_id: str, more: str = ": wait for it, or cancel it") -> SessionBusy:
    """Return the error for whoever needs the session `session_id` while its run `run_id` is active. `more` says what to
    do."""
    return SessionBusy(f"session {session_id} has an active run, {run_id}{more}", run_id=run_id)


def now_ms() -> int:
    """Return the time as records carry it: milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
