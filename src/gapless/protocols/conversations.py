"""What the routes of clients share that think in conversations: what they may say, its newest run, whether its history
is ours, what a run of it waits for."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections.abc import Container, Sequence
from typing import Any, NamedTuple, TypeGuard

import msgspec
from starlette.requests import HTTPConnection, Request

from gapless.aside import aside
from gapless.errors import AgentInvalid, InputInvalid, RunConflict, RunNotFound, SessionNotFound
from gapless.events import (
    ActivityMessage,
    AssistantMessage,
    ContentPart,
    Interrupt,
    Message,
    ReasoningMessage,
    ResumeEntry,
    RunStartedEvent,
    ToolMessage,
    UserMessage,
    decode_event,
    interrupts_in,
    text_of,
)
from gapless.fold import Fold
from gapless.http.auth import Access
from gapless.jsontext import decode_json
from gapless.records import AFTER, RunRecord, RunStatus, branch
from gapless.runs.runner import Runner
from gapless.user_message import is_ours, mark_results

__all__ = [
    "answer_interrupts",
    "current_run",
    "from_client",
    "history_unless_ours",
    "is_scoped",
    "known_run",
    "own_history",
    "results_as_answers",
    "runs_of",
    "said_so_far",
    "says_the_same",
    "scoped",
]

_SCOPED = re.compile(r"@[0-9a-f]{16}\Z")
_decode_messages = msgspec.json.Decoder(list[Message]).decode


def scoped(session_id: str, *of: str) -> str:
    """Return an id under which a session of these (an app, a user) does not meet the same id of others."""
    return session_id + "@" + hashlib.sha256("\0".join(of).encode()).hexdigest()[:16]


def is_scoped(session_id: str) -> bool:
    """Tell whether an id may be one that `scoped` makes. A client does not choose such a one: whoever did could take
    another's."""
    return _SCOPED.search(session_id) is not None


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
    runner: Runner, session_id: str, user_id: str, theirs: Sequence[Message], asked: UserMessage
) -> list[Message] | None:
    """Return the client's history before the message that it asks; None where the session says the same, as far as that
    goes: then the session's own is better, which has the turns in the framework's form too.

    On the message it is noted after which run it is asked, where the client has gone back to there, and which of its
    tools' results are new in the client's history.
    """
    turns = await _own_turns(runner, session_id, user_id, asked)
    end = len(theirs)
    while end and not asked.content and isinstance(theirs[end - 1], ToolMessage):
        end -= 1
    calls = _calls_without_result([message for turn in turns for message in turn.messages])
    brought, rest = list[ToolMessage](), list[Message]()
    for at, one in enumerate(theirs):
        if isinstance(one, ToolMessage) and (at >= end or one.tool_call_id in calls):
            brought.append(one)
        else:
            rest.append(one)
    place = _place(turns, rest)
    if place is not None:
        calls = _calls_without_result([message for turn in turns[:place] for message in turn.messages])
        brought = [one for one in brought if one.tool_call_id in calls]
        if place < len(turns):
            asked.metadata = {**(asked.metadata or {}), AFTER: turns[place - 1].run_id if place else ""}
    elif asked.content:
        brought = []
        now = [message for turn in turns for message in turn.messages] + await said_so_far(runner, session_id)
        if says_the_same(theirs, now):  # they go on from a run that waits for a person, and is declined
            return None
    if brought:
        mark_results(asked, brought)
    return list(theirs) if place is None else None


async def said_so_far(runner: Runner, session_id: str) -> list[Message]:
    """Return the question and the answer so far of the session's run that waits for a person: a client that goes on to
    another message has them, and the session will."""
    run = await runner.current_run(session_id)
    if run is None or run.status is not RunStatus.WAITING or run.input is None:
        return []
    fold = Fold()
    async for events in runner.readers.pages(run.id, until=run.last_seq):
        for event in events:
            fold.add(decode_event(event))
    return [run.input, *fold.messages()]


class _Turn(NamedTuple):
    run_id: str
    messages: list[Message]


async def _own_turns(runner: Runner, session_id: str, user_id: str, asked: UserMessage) -> list[_Turn]:
    """Return the session's turns before this message; nothing for no session and for another's alike."""
    try:
        session = await runner.get_session(session_id)
    except SessionNotFound:
        return []
    if session.user_id != user_id:
        return []
    turns = await runner.turns(session_id)

    def decode() -> list[_Turn]:
        return [_Turn(turn.run_id, _in_order(_decode_messages(turn.messages))) for turn in branch(turns, asked)]

    return await aside(sum(len(turn.messages) for turn in turns), decode)


def _in_order(turn: list[Message]) -> list[Message]:
    """Return a turn with what the client's tools had come to before its question, where a client has it."""
    end = 1
    while end < len(turn) and isinstance(turn[end], ToolMessage):
        end += 1
    return [*turn[1:end], *turn[:1], *turn[end:]]


async def own_history(runner: Runner, session_id: str, user_id: str, asked: UserMessage) -> list[Message]:
    """Return the session's history before this message; nothing for no session and for another's alike."""
    turns = await _own_turns(runner, session_id, user_id, asked)
    return [message for turn in turns for message in turn.messages]


def _calls_without_result(messages: Sequence[Message]) -> set[str]:
    calls = {call.id for one in messages if isinstance(one, AssistantMessage) for call in one.tool_calls or ()}
    return calls - {one.tool_call_id for one in messages if isinstance(one, ToolMessage)}


def _place(turns: Sequence[_Turn], theirs: Sequence[Message]) -> int | None:
    """Return how many of the session's turns the client's history is; None where it is something else."""
    wanted, asked = _said(theirs), _questions(theirs)
    questions = sum(_questions(turn.messages) for turn in turns)
    for place in range(len(turns), -1, -1):
        if questions == asked and wanted == _said([message for turn in turns[:place] for message in turn.messages]):
            return place
        questions -= _questions(turns[place - 1].messages) if place else 0
    return None


def _questions(messages: Sequence[Message]) -> int:
    return sum(isinstance(message, UserMessage) and bool(message.content) for message in messages)


def says_the_same(theirs: Sequence[Message], ours: Sequence[Message]) -> bool:
    """Return whether the client's history is the session's, whoever divided it into messages."""
    return _said(theirs) == _said(ours)


def _said(messages: Sequence[Message]) -> list[tuple[type, str]]:
    """Return who said what. Ids, and how an answer is divided into messages, are each side's own; reasoning, and calls
    that came to nothing, are not sent back by every client.
    """
    said: list[tuple[type, str]] = []
    open_calls = _calls_without_result(messages)
    for message in messages:
        if isinstance(message, ReasoningMessage | ActivityMessage):
            continue
        if isinstance(message, ToolMessage):
            text = f"\0{message.tool_call_id}"
        else:
            text = text_of(message.content)
            if isinstance(message, AssistantMessage):
                text += "".join(f"\0{call.id}" for call in message.tool_calls or () if call.id not in open_calls)
        if not text:
            continue
        if said and said[-1][0] is type(message):
            said[-1] = (type(message), said[-1][1] + text)
        else:
            said.append((type(message), text))
    return said


async def answer_interrupts(runner: Runner, record: RunRecord, entries: list[ResumeEntry]) -> int:
    """Answer what the run waits for, or some of that, and wait until it goes on (to wait for the rest); the position
    after which it does. A repeated answer finds its place again. Raises `InputInvalid` where the run never asked that,
    or has another answer."""
    try:
        await runner.answer(record.id, entries, some=True)
    except InputInvalid as error:
        if isinstance(error.__cause__, AgentInvalid):  # it is no answer at all, given again or not
            raise
        if (place := await _place_of(runner, record, entries)) is None:
            raise
        await runner.readers.wait_past(record.id, place)  # the answer that was taken may not be recorded yet
        again = await _place_of(runner, record, entries, place - 1)
        return place if again is None else again
    await runner.readers.wait_past(record.id, record.last_seq)
    # Two may answer at the same instant, and one of them is late.
    place = await _place_of(runner, record, entries, max(record.last_seq - 1, 0))
    return record.last_seq if place is None else place


async def results_as_answers(runner: Runner, run: RunRecord, messages: Sequence[Message]) -> list[ResumeEntry]:
    """Return what the results that a client's history ends with answer, of calls of the run that are executed outside
    of the agent: such a client sends them as it does those of its own tools. It may send them again."""
    brought = [*itertools.takewhile(lambda one: isinstance(one, ToolMessage), reversed(messages))]
    if not brought:
        return []
    if run.status is RunStatus.WAITING:
        asked = (await runner.readers.question(run)).interrupts
    else:
        asked = await _ever_asked(runner, run)
    external = {one.tool_call_id: one.id for one in asked if (one.metadata or {}).get("kind") == "external"}
    answers = [_answer(one, external[one.tool_call_id]) for one in brought if _is_of(one, external)]
    # What is not asked now is taken for sent again only where nothing new comes with it.
    return answers if run.status is RunStatus.WAITING or len(answers) == len(brought) else []


def _is_of(message: Message, calls: Container[str | None]) -> TypeGuard[ToolMessage]:
    return isinstance(message, ToolMessage) and message.tool_call_id in calls


def _answer(message: ToolMessage, interrupt_id: str) -> ResumeEntry:
    if message.error is not None:
        return ResumeEntry(interrupt_id=interrupt_id, status="cancelled", payload={"error": message.error})
    return ResumeEntry(interrupt_id=interrupt_id, status="resolved", payload=_value(message.content))


def _value(content: str | list[ContentPart]) -> Any:
    """Return what a tool has returned: an object or a list, which messages carry as JSON text, or the text."""
    text = text_of(content)
    if text[:1] in ("{", "["):
        with contextlib.suppress(msgspec.DecodeError):
            return decode_json(text)
    return text


async def _ever_asked(runner: Runner, record: RunRecord) -> list[Interrupt]:
    """Return what the run has asked so far, also what is answered."""
    asked: list[Interrupt] = []
    async for events in runner.readers.pages(record.id, until=record.last_seq):
        asked += [one for event in events for one in interrupts_in(event)]
    return asked


async def _place_of(runner: Runner, record: RunRecord, entries: list[ResumeEntry], after: int = 0) -> int | None:
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
            place = seq if asked & answers.keys() else None
        after += len(events)
    if otherwise and place is None:
        raise InputInvalid(f"run {record.id} went on with another answer", run_id=record.id)
    return place
