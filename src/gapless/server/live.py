"""The route of live runs."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, WebSocket
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gapless.config import RunConfig
from gapless.errors import InputInvalid, RunNotFound
from gapless.http.answers import chosen_run_id
from gapless.http.config import AskedConfig, live_config
from gapless.http.cursors import cursor_of
from gapless.http.socket import LiveSocket
from gapless.http.stream import delivery_of
from gapless.jsontext import decode_json
from gapless.live import is_live
from gapless.protocols.starting import ClientRoutes, StartRequest
from gapless.records import RunRecord
from gapless.wire import wire

__all__ = ["LiveRoutes"]


class LiveRoutes(ClientRoutes):
    """`/live`."""

    def router(self) -> APIRouter:
        router = APIRouter(tags=["live"])
        router.get("/live", include_in_schema=False)(self.refuse)
        router.websocket("/live")(self.live)
        return router

    async def refuse(self) -> Response:
        """Without an upgrade, or where the server cannot make one (RFC 9110, section 15.5.22)."""
        what = "this is a WebSocket; if you have asked for one, the server lacks an extra: pip install 'gapless[live]'"
        raise HTTPException(426, what, {"upgrade": "websocket", "connection": "upgrade"})

    async def live(self, websocket: WebSocket) -> None:
        """Speak with a live run: `?agent=`, `?session_id=`, `?config=` (as in `POST /runs`, JSON) say which to start.
        With the `?run_id=` of one that there is it is joined, after `?after=`; `?wire=` says in which encoding.

        A client sends `LiveRequest`s as JSON, or sound as binary messages. It receives `{"id", "data"}` for each event,
        at last `{"id", "event": "end"}`, and `{"error": {"code", "message"}}` for what it said and could not be taken.
        """
        user, params = await self.access.user(websocket), websocket.query_params
        encoder = wire(params.get("wire", "ag-ui"))
        run_id = chosen_run_id(websocket, user)
        cursor = cursor_of(websocket, run_id)
        record = await self._joined(websocket, run_id)
        if record is None:
            config = self._config(params.get("config"))
            asked = StartRequest("", agent=params.get("agent"), session_id=params.get("session_id"), config=config)
            record = await self.start(websocket, user, asked)
        delivery = delivery_of(self.runner, self.streams, record, encoder, cursor)
        deaf = None
        try:
            await self.access.check(websocket, "answer", record, user=user)
        except RunNotFound as error:
            deaf = error
        connected = encoder(record) if delivery is None else delivery.encoder
        await LiveSocket(websocket, self.runner, record, connected, deaf).serve(delivery, cursor.seq)

    async def _joined(self, websocket: WebSocket, run_id: str | None) -> RunRecord | None:
        """Return the run that is to be heard; None for one that is to be started, or that is another's."""
        if run_id is None:
            return None
        try:
            record = await self.access.find(websocket, "read", self.runner.get_run, run_id)
        except RunNotFound:
            return None
        if not is_live(record.config):
            raise InputInvalid(f"run {run_id} is not live: follow it at /runs/{run_id}/events", run_id=run_id)
        return record

    def _config(self, asked: str | None) -> RunConfig:
        given: Any = None
        try:
            given = None if asked is None else decode_json(asked, AskedConfig)
        except msgspec.DecodeError as error:
            raise InputInvalid(f"config does not fit: {error}") from None
        return live_config(self.runner, given)
