"""The session of an ADK invocation that another worker began, where a session service of the user's own has it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from google.adk.events import Event
from google.adk.sessions import BaseSessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse

__all__ = ["ResumedSession"]


class ResumedSession(BaseSessionService):
    """Shows ADK the `session` of a `service` without the `dropped` events, whose responses are given again. What is
    given again (`repetition` returns the id that it has in the service) is not appended twice."""

    def __init__(
        self,
        service: BaseSessionService,
        session: Session,
        dropped: Collection[str],
        repetition: Callable[[Event], str | None],
    ) -> None:
        self._service, self._session, self._repetition = service, session, repetition
        self._shown = session.model_copy(update={"events": [one for one in session.events if one.id not in dropped]})
        self._shown.state = session.state

    async def create_session(
        self, *, app_name: str, user_id: str, state: dict[str, Any] | None = None, session_id: str | None = None
    ) -> Session:
        return await self._service.create_session(
            app_name=app_name, user_id=user_id, state=state, session_id=session_id
        )

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        if session_id == self._session.id:
            return self._shown
        return await self._service.get_session(app_name=app_name, user_id=user_id, session_id=session_id, config=config)

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        return await self._service.list_sessions(app_name=app_name, user_id=user_id)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        await self._service.delete_session(app_name=app_name, user_id=user_id, session_id=session_id)

    async def append_event(self, session: Session, event: Event) -> Event:
        if event.partial:
            return event
        known = self._repetition(event)
        if known is not None:
            event.id = known
            return await super().append_event(self._shown, event)
        event = await self._service.append_event(self._session, event)
        self._shown.events.append(event)
        self._shown.last_update_time = self._session.last_update_time
        return event
