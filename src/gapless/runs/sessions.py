"""Sessions: their records, what has been said in them, whose turn it is."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from gapless.agents.base import Agent
from gapless.agents.places import class_and_place
from gapless.aside import ASIDE_BYTES, aside
from gapless.attachments import has_media, marks_of, without_blobs, without_left_out
from gapless.config import Limits, RunConfig
from gapless.errors import AgentFailed, InputInvalid, SessionNotFound
from gapless.events import Message, UserMessage, text_of
from gapless.given import as_json, check_given
from gapless.journals.contract import Store
from gapless.records import (
    Listing,
    RunRecord,
    RunRequest,
    RunStatus,
    SessionRecord,
    Turn,
    branch,
    check_state,
    now_ms,
    session_busy,
    session_taken,
    title_of,
)
from gapless.runs.commands import Commands
from gapless.runs.pace import Pace
from gapless.runs.readers import Readers, ends_unread
from gapless.runs.request import check_id, check_user, is_of_its_own, new_id, title_given
from gapless.runs.retrying import LeaseWanted, patiently
from gapless.runs.turns import KeptTurns
from gapless.user_message import results_of

__all__ = ["History", "Sessions"]

ENDS_AT_ONCE = 50
"""Runs that end in one turn of the event loop, at some 0.1 ms each: thousands may do so when their model fails."""
DECLINES_MAX = 10
"""A run that asks on and on, of somebody who has gone on to another message, is cancelled after so many refusals."""

log = logging.getLogger("gapless.runner")

_decode_messages = msgspec.json.Decoder(list[Message]).decode


class History:
    """What a run's agent is told of the conversation before it. A long one is decoded for those who read it."""

    def __init__(
        self,
        asked: UserMessage,
        sent: list[Message] | None,
        turns: list[Turn],
        state: dict[str, Any] | None,
        messages_max: int,
    ) -> None:
        self.state = state
        """The session's state as the run finds it."""
        self._asked = asked
        self._sent = sent
        self._turns = turns
        self._messages_max = messages_max

    @functools.cached_property
    def _before(self) -> list[Turn]:
        return branch(self._turns, self._asked)

    def messages(self) -> list[Message]:
        """Return what the client sent, or the newest of the session's turns and what the client's tools have come to,
        and the new message last. A text stands in the place of attachments that failed their turn."""
        return self._messages

    @functools.cached_property
    def _messages(self) -> list[Message]:
        kept = [message for turn in self._before for message in _decode_messages(turn.messages)]
        told = [*kept[-self._messages_max :], *results_of(self._asked)] if self._sent is None else self._sent
        return [*map(without_blobs, without_left_out(told, marks_of(kept))), self._asked]

    def native(self) -> list[bytes]:
        """Return the turns in the agent framework's own form, where they have one."""
        if self._sent is not None:
            return []
        return [turn.native for turn in self._before if turn.native is not None]

    def left(self) -> list[bytes]:
        """Return, in the same form, the turns that the new message or an earlier one has replaced."""
        kept = {turn.run_id for turn in self._before}
        return [turn.native for turn in self._turns if turn.native is not None and turn.run_id not in kept]


def _size(turns: list[Turn]) -> int:
    return sum(len(turn.messages) for turn in turns)


class Sessions:
    """Keeps the sessions of a store."""

    def __init__(self, store: Store, limits: Limits, readers: Readers, commands: Commands) -> None:
        self._store = store
        self._limits = limits
        self._readers = readers
        self._commands = commands
        self._turns = KeptTurns(store)
        self.ends = Pace(ENDS_AT_ONCE)
        """When runs of this worker may end."""
        self.returns = Pace(ENDS_AT_ONCE)
        """When runs are woken whose agents have returned."""
        self.searched = asyncio.Lock()
        """Held while a conversation is looked through, so that many searches take no more of a moment than one."""

    async def create(
        self, session_id: str | None, *, user_id: str, state: dict[str, Any] | None, agent: str
    ) -> SessionRecord:
        """Create a session, or return the one that has the id already. Raises `InputInvalid`, `SessionNotFound` when
        that is another user's, `InputTooLarge` for its state, `StoreUnavailable`."""
        now = now_ms()
        check_user(user_id)
        if session_id is not None:
            check_id(session_id, "session")
        check_given("state", state, dict | None, "a dict", InputInvalid)
        session_id = session_id or new_id()
        state = state and as_json(f"the state of session {session_id}", state)
        check_state(state, self._limits.state_bytes_max, f"session {session_id}")
        with LeaseWanted():
            session = await self._store.create_session(
                SessionRecord(
                    id=session_id, user_id=user_id, agent=agent, created_at=now, updated_at=now, state=state or {}
                )
            )
        if session.user_id != user_id:
            raise session_taken(session_id)
        return session

    async def check_user(self, session_id: str, user_id: str) -> SessionRecord | None:
        """Return the session, if there is one. Raises `InputInvalid` for what is no id, `SessionNotFound` for another
        user's session."""
        check_id(session_id, "session")
        session = await self._store.get_session(session_id)
        if session is not None and session.user_id != user_id:
            raise session_taken(session_id)
        return session

    async def find(self, session_id: str) -> SessionRecord | None:
        """Return the session's record, or None where there is no such session."""
        return await self._store.get_session(session_id)

    async def get(self, session_id: str) -> SessionRecord:
        """Return the session's record. Raises `SessionNotFound`."""
        session = await self._store.get_session(session_id)
        if session is None:
            raise SessionNotFound(f"no session {session_id}")
        return session

    async def update_state(self, session_id: str, changes: dict[str, Any]) -> SessionRecord:
        """Set these keys of the session's state. Raises `SessionNotFound`, `InputInvalid`, `InputTooLarge`;
        `SessionBusy` while it has an active run."""
        check_given("changes", changes, dict, "a dict", InputInvalid)
        changes = as_json(f"the state of session {session_id}", changes)
        session = await self._store.update_state(session_id, changes, now_ms(), self._limits.state_bytes_max)
        if session is None:
            raise SessionNotFound(f"no session {session_id}")
        return session

    async def rename(self, session_id: str, title: str) -> SessionRecord:
        """Give the session a title; with "" the one that its first message makes. Raises `InputInvalid`,
        `SessionNotFound`."""
        title = title_given(title) or await self._own_title(session_id)
        session = await self._store.rename_session(session_id, title)
        if session is None:
            raise SessionNotFound(f"no session {session_id}")
        return session

    async def _own_title(self, session_id: str) -> str:
        """Return the title that the session's first message makes; "" before a run has ended, whose end sets it."""
        for turn in await self._store.turns(session_id):
            for message in _decode_messages(turn.messages):
                if isinstance(message, UserMessage) and (title := title_of(text_of(message.content))):
                    return title
        return ""

    async def latest(self, *, user_id: str | None, limit: int, after: str | None) -> Listing[SessionRecord]:
        """List sessions, latest used first. Raises `CursorInvalid`."""
        return await self._store.list_sessions(user_id=user_id, limit=limit, after=after)

    async def delete(self, session_id: str, agents: Mapping[str, Agent]) -> None:
        """Drop the session with its runs, and before them what the agents' frameworks keep of it: they would tell it to
        whoever gets the id next. Raises `SessionNotFound`, `SessionBusy`, `AgentFailed` where one cannot drop it."""
        session = await self.get(session_id)
        for run in (await self.active_runs([session_id])).values():
            raise session_busy(session_id, run.id)
        for name, agent in agents.items():
            try:
                await agent.delete_session(name, session.user_id, session_id)
            except Exception as error:
                log.error("session %s: agent %s raised %s", session_id, name, class_and_place(error))
                log.debug("session %s", session_id, exc_info=error)
                raise AgentFailed(f"session {session_id}: what agent {name} keeps of it cannot be dropped") from error
        if not await self._store.delete_session(session_id):
            raise SessionNotFound(f"no session {session_id}")

    # -- what has been said -----------------------------------------------------------------------------------------

    async def turns(self, session_id: str) -> list[Turn]:
        """Return what each ended run has added to the session, oldest first; empty where there is no such session."""
        return await self._store.turns(session_id)

    async def messages(self, session_id: str, *, before: str | None) -> list[Message]:
        """Return the messages of the session's ended runs; see `Runner.messages`. Raises `SessionNotFound`."""
        await self.get(session_id)
        turns = await self._store.turns(session_id)

        def decode() -> list[Message]:
            told = turns if before is None else branch(turns, before)
            return [message for turn in told for message in _decode_messages(turn.messages)]

        return await aside(_size(turns), decode)

    async def history(self, record: RunRecord, request: RunRequest, *, ready: bool) -> History:
        """Read what a run's agent is told, once its turn has come; `ready` to be read: of a long one, decoding takes
        milliseconds. Raises `StoreUnavailable`."""
        assert record.input is not None, "the runner records it"
        turns, state = [], request.state
        if not is_of_its_own(record):
            if request.messages is None or any(map(has_media, request.messages)):
                turns = await patiently(self._turns.of, record.session_id)
            if state is None:
                session = await patiently(self._store.get_session, record.session_id)
                state = None if session is None else dict(session.state)
        history = History(record.input, request.messages, turns, state, self._limits.history_messages_max)
        if ready and (size := _size(turns)) > ASIDE_BYTES:
            await aside(size, history.messages)
        return history

    # -- whose turn it is -------------------------------------------------------------------------------------------

    async def current_run(self, session_id: str) -> RunRecord | None:
        """Return the session's run that executes or waits for an answer, or else the one that is next; where none is
        active, the newest; None where there is none. The newest run may only stand behind it in the queue."""
        for listed in await self._store.list_runs(session_id=session_id, limit=1):
            if listed.started_at is None:  # its turn has not come: there may be some before it that have not ended
                active = await self.active_runs([session_id])
                listed = active.get(session_id, listed)
            return await self._store.get_run(listed.id)
        return None

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        """Find each session's run that executes or waits for an answer, or else the one that is next, in one question
        to the store. A session where nothing is active is not in the answer."""
        return await self._store.active_runs(session_ids)

    async def take_turn(self, record: RunRecord, config: RunConfig) -> None:
        """Wait until no earlier run of the session is active, or see to that, as `config` says.

        Raises `StoreUnavailable`, `WorkerFenced`."""
        while True:
            started_at = now_ms()
            ahead = await patiently(self._store.start_run, record.id, started_at)
            if ahead is None:
                record.started_at, record.status = started_at, RunStatus.RUNNING
                return
            if config.on_busy == "interrupt":
                await patiently(self._cancel, ahead)
            elif config.on_waiting == "decline":
                await patiently(self._see_out, ahead, record.created_at)
            await patiently(self._readers.wait, ahead)

    async def _see_out(self, run_id: str, typed_at: int) -> None:
        """Let a run go on to its end that waits for a person who typed another message at `typed_at` (ms): what it has
        asked before that is declined, and what it asks then. A run that asks later waits for its answer."""
        run, declines = await self._readers.record(run_id), 0
        while not run.status.ended:
            if run.status is RunStatus.WAITING:
                if declines == 0 and (await self._readers.question(run)).since > typed_at:
                    return
                if declines == DECLINES_MAX:
                    await self._commands.cancel(run)
                    return
                declines += 1
                await self._commands.decline(run)
                run = await self._readers.record(run_id)
            if ends_unread(run.config):  # and who waits here is none who reads it
                return
            if run.status is not RunStatus.WAITING:
                run = await self._readers.settled(run)

    async def _cancel(self, run_id: str) -> None:
        await self._commands.cancel(await self._readers.record(run_id))
