"""What the routes of clients share that think in conversations: what they may say, its newest run, whether its history
is ours, what a run of it waits for."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec
from starlette.requests import HTTPConnection, Request

from gapless.errors import InputInvalid, RunConflict, RunNotFound, SessionNotFound
from gapless.events import (
    ActivityMessage,
    AssistantMessage,
    Message,
    ReasoningMessage,
    ResumeEntry,
    RunStartedEvent,
    ToolMessage,
    decode_event,
    interrupts_in,
    text_of,
)
from gapless.http.auth import Access
from gapless.records import RunRecord
from gapless.runs.runner import Runner
from gapless.user_message import is_ours

__all__ = [
    "answer_interrupts",
    "current_run",
    "from_client",
    "history_unless_ours",
    "known_run",
    "own_history",
    "runs_of",
    "says_the_same",
]


def from_client(messages: Sequence[Message]) -> list[Message]:
    """Return the messages as a client may say them: without the marks that are the server's to make. To be used
    wherever whole messages come in.
    """
    said = []
    for message in messages:
        metadata = {key: value for key, value in (message.metadata or {}).items() if not is_ours(key)}
        said.append(msgspec.structs.replace(message, metadata=metadata or None))
    return said


async def current_run(
    runner: Runner, access: Access, request: Request, session_id: str, action: str
) -> RunRecord | None:
    """Return the session's current run, or its newest, if the caller may do this to it; None for no session and for
    another's alike. Raises `NotAuthenticated`.
    """
    user = await access.user(request)
    record = await runner.current_run(session_id)
    with contextlib.suppress(RunNotFound):
        if record is not None:
            await access.check(request, action, record, user=user)
            return record
    return None


async def runs_of(
    runner: Runner, access: Access, request: Request, session_id: str, action: str, limit: int
) -> list[RunRecord]:
    """Return the session's newest runs that the caller may do this to; none for no session and for another's alike.
    Raises `NotAuthenticated`.
    """
    await access.user(request)
    runs = []
    for record in await runner.list_runs(session_id=session_id, limit=limit):
        with contextlib.suppress(RunNotFound):
            await access.check(request, action, record)
            runs.append(record)
    return runs


async def known_run(
    runner: Runner, access: Access, request: HTTPConnection, run_id: str | None, session_id: str, message: Message
) -> RunRecord | None:
    """Return the run that a request starts by this id, if it has been started before: the history that came with it may
    be another by now, its message is not. Raises `RunConflict`, as for a run that the caller may not read.
    """
    try:
        record = None if run_id is None else await runner.get_run(run_id)
    except RunNotFound:
        return None
    if record is None:
        return None
    known = record.input.content if record.input is not None else record.message
    with contextlib.suppress(RunNotFound):  # of another user: an id that is taken
        await access.check(request, "read", record)
        if record.session_id == session_id and known == message.content:
            return record
    raise RunConflict(f"run {run_id} exists with another message or session; choose a new id", run_id=run_id)


async def history_unless_ours(
    runner: Runner, session_id: str, user_id: str, theirs: Sequence[Message], asked: Message
) -> list[Message] | None:
    """Return the client's history before the message that it asks, where it differs from the session's; None where the
    session says the same.

    The session's own is better where it is the same: it has the turns in the framework's form too.
    """
    ours = await own_history(runner, session_id, user_id, asked)
    return None if says_the_same(theirs, ours) else list(theirs)


async def own_history(runner: Runner, session_id: str, user_id: str, asked: Message) -> list[Message]:
    """Return the session's history before this message; nothing for no session and for another's alike."""
    try:
        session = await runner.get_session(session_id)
        return await runner.messages(session_id, before=asked.id) if session.user_id == user_id else []
    except SessionNotFound:
        return []


def says_the_same(theirs: Sequence[Message], ours: Sequence[Message]) -> bool:
    """Return whether the client's history is the session's, whoever divided it into messages."""
    return _said(theirs) == _said(ours)


def _said(messages: Sequence[Message]) -> list[tuple[type, str]]:
    """Return who said what. Ids, and how an answer is divided into messages, are each side's own; reasoning is not sent
    back by every client.
    """
    said: list[tuple[type, str]] = []
    for message in messages:
        if isinstance(message, ReasoningMessage | ActivityMessage):
            continue
        if isinstance(message, ToolMessage):
            text = f"\0{message.tool_call_id}"
        else:
            text = text_of(message.content)
            if isinstance(message, AssistantMessage):
                text += "".join(f"\0{call.id}" for call in message.tool_calls or ())
        if not text:
            continue
        if said and said[-1][0] is type(message):
            said[-1] = (type(message), said[-1][1] + text)
        else:
            said.append((type(message), text))
    return said


async def answer_interrupts(
    runner: Runner, record: RunRecord, entries: list[ResumeEntry], *, some: bool = False
) -> int:
    """Answer what the run waits for, or `some` of that, and wait until it goes on; the position after which it does. A
    repeated answer finds its place again. Raises `InputInvalid` where the run never asked that, asked more, or has
    another answer."""
    try:
        await runner.answer(record.id, entries, some=some)
    except InputInvalid:
        if (place := await _place_of(runner, record, entries, some=some)) is None:
            raise
        await runner.readers.wait_past(record.id, place)  # the answer that was taken may not be recorded yet
        again = await _place_of(runner, record, entries, place - 1, some=some)
        return place if again is None else again
    await runner.readers.wait_past(record.id, record.last_seq)
    # Two may answer at the same instant, and one of them is late.
    place = await _place_of(runner, record, entries, max(record.last_seq - 1, 0), some=some)
    return record.last_seq if place is None else place


async def _place_of(
    runner: Runner, record: RunRecord, entries: list[ResumeEntry], after: int = 0, *, some: bool = False
) -> int | None:
    """Return where the run asked, after this position, what these answer. Raises `InputInvalid` where it was answered
    otherwise.
    """
    answers, place, otherwise = {entry.interrupt_id: entry for entry in entries}, None, False
    async for events in runner.readers.pages(record.id, after):
        for seq, event in enumerate(events, after + 1):
            if place is not None:
                started = decode_event(event)
                known = started.input.resume if isinstance(started, RunStartedEvent) and started.input else None
                if known:  # and else it was ended, begun anew or went on before anybody answered
                    if all(answers.get(one.interrupt_id) == one for one in known):
                        return place
                    otherwise = True
            asked = {interrupt.id for interrupt in interrupts_in(event)}
            answered = bool(asked & answers.keys()) if some else bool(asked) and asked <= answers.keys()
            place = seq if answered else None
        after += len(events)
    if otherwise and place is None:
        raise InputInvalid(f"run {record.id} went on with another answer", run_id=record.id)
    return place
