"""How every route starts a run, or comes back to one, and follows it: the same steps in the same order.

Who asks → the body → the run's id → is the cursor possible → is the run known → start it → from where → follow. A
client family translates its request into a `StartRequest`, and says where its streams go on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import msgspec
from fastapi import APIRouter, Request
from starlette.requests import HTTPConnection
from starlette.responses import Response

from gapless.config import RunConfig
from gapless.errors import GaplessError, InputInvalid
from gapless.events import Context, Message, Tool, UserMessage
from gapless.http.answers import answer_error, asked_webhook, chosen_run_id, read_body
from gapless.http.auth import Access
from gapless.http.cursors import START, check_start, cursor_of
from gapless.http.stream import Streams, follow
from gapless.notify import Webhook
from gapless.protocols.conversations import is_scoped, known_run
from gapless.records import RunRecord
from gapless.runs.readers import has_said_all
from gapless.runs.runner import Runner
from gapless.wire import Cursor, Encoder

__all__ = ["ClientRoutes", "StartRequest", "root_path"]

_T = TypeVar("_T")


@dataclass(slots=True)
class StartRequest:
    """A client's request for a run, in Gapless's terms. What is not said here is as in `Runner.start`."""

    message: object
    agent: str | None = None
    session_id: str | None = None
    config: RunConfig | None = None
    history: list[Message] | Callable[[], Awaitable[list[Message] | None]] | None = None
    """The messages before this one, where they are not the session's own. A function is asked for them when the run is
    none that there is already: such a run is known by its message, since the history may be another by now."""
    state: dict[str, Any] | None = None
    tools: list[Tool] | None = None
    context: list[Context] | None = None
    forwarded_props: Any = None
    fingerprint: object = None
    notify: Webhook | None = None
    """Where the body has a place for it; every route takes it as a header."""


class ClientRoutes(ABC):
    """One family's routes over a runner. Every route that names a run authorises its caller for it."""

    family: ClassVar[str] = ""
    """What an operator calls it by."""

    def __init__(self, runner: Runner, streams: Streams, access: Access) -> None:
        self.runner = runner
        self.streams = streams
        self.access = access

    @abstractmethod
    def router(self) -> APIRouter:
        """Make the router, which says which method answers what."""

    async def read(self, request: Request, type: type[_T]) -> tuple[str, _T]:
        """Return the id of the user who asks, and the body as `type`: to nobody known, nothing is said of the body.
        Raises `NotAuthenticated` and what `read_body` raises.
        """
        user = await self.access.user(request)
        return user, await read_body(request, type, self.runner.limits.body_bytes_max)

    async def start(
        self,
        request: HTTPConnection,
        user: str,
        asked: StartRequest,
        *,
        run_id: str | None = None,
        cursor: Callable[[HTTPConnection, str | None], Cursor] | None = cursor_of,
    ) -> RunRecord:
        """Start the run, or come back to the one that the request has started before. `run_id` is the client's where
        the family has a place of its own for it. `cursor` reads where the client wants to go on, None where it gets no
        stream: a cursor is refused before anything is started that its client would not get.

        Raises what `Runner.start` raises, `CursorInvalid`."""
        run_id = chosen_run_id(request, user) if run_id is None else run_id
        notify = asked_webhook(request) if asked.notify is None else asked.notify
        if notify is not None and not self.runner.notify.clients:
            raise InputInvalid("notify: who is told is the operator's to choose here, not a client's")
        if self.family in self.streams.cancelling:
            asked.config = msgspec.structs.replace(asked.config or self.runner.config, on_disconnect="cancel")
        if cursor is not None:
            await check_start(self.runner, run_id, cursor(request, run_id))
        history = asked.history
        if callable(history):
            assert isinstance(asked.message, UserMessage), "whoever sends a history says its message in AG-UI's form"
            assert asked.session_id is not None, "and its conversation"
            known = await known_run(self.runner, self.access, request, run_id, asked.session_id, asked.message)
            if known is not None:
                return known
            await self.check_session(asked.session_id, user)
            await self.runner.worker.wait_for_stop(asked.session_id)  # what it has said is part of the history
            history = await history()
        elif asked.session_id is not None and is_scoped(asked.session_id):
            await self.check_session(asked.session_id, user)
        run = await self.runner.start(
            asked.message,
            agent=asked.agent,
            session_id=asked.session_id,
            run_id=run_id,
            user_id=user,
            config=asked.config,
            messages=history,
            state=asked.state,
            tools=asked.tools,
            context=asked.context,
            forwarded_props=asked.forwarded_props,
            fingerprint=asked.fingerprint,
            notify=notify,
        )
        return run.started

    async def check_session(self, session_id: str, user: str) -> None:
        """Refuse a session of another user, before anything of it is looked at or waited for, and a new one under an id
        that only the server gives. Raises `SessionNotFound`, `InputInvalid`."""
        session = await self.runner.worker.sessions.check_user(session_id, user)
        if session is None and is_scoped(session_id):
            raise InputInvalid(f"session {session_id} is new, and ids with such an end are the server's to give")

    def follow(
        self,
        request: HTTPConnection,
        record: RunRecord,
        encoder: Callable[[RunRecord], Encoder],
        cursor: Cursor,
        *,
        location: str,
        on_error: Callable[[GaplessError], Response] = answer_error,
    ) -> Response:
        """Answer with the run's events after the cursor. `?merge=0` leaves deltas as they are while catching up."""
        merge = request.query_params.get("merge", "1") != "0"
        return follow(
            self.runner, self.streams, record, encoder, cursor, location=location, merge=merge, on_error=on_error
        )

    def go_on(
        self,
        request: HTTPConnection,
        record: RunRecord,
        encoder: Callable[[RunRecord], Encoder],
        *,
        location: str,
        after: int = 0,
    ) -> Response:
        """Answer with what the run says after the request's cursor, or after this position where it has none; 204 where
        it has said all, also until a person answers."""
        cursor = cursor_of(request, record.id)
        if cursor == START:
            cursor = Cursor(after)
        if has_said_all(record, cursor.seq):
            return Response(status_code=204, headers={"x-run-id": record.id})
        return self.follow(request, record, encoder, cursor, location=location)


def root_path(request: HTTPConnection) -> str:
    """Return the prefix that the app is mounted under."""
    root: str = request.scope.get("root_path", "")
    return root
