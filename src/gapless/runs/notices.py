"""What is told of a run: made where the run comes to wait or ends, kept in the store's outbox with that, told later."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from gapless.events import Interrupt
from gapless.journals.outbox import Notice
from gapless.notify import NoticeRecord, NotifyConfig, Webhook
from gapless.records import RunEnd, RunRecord, now_ms
from gapless.runs.request import new_id

__all__ = ["Notices", "Telling", "decode_telling", "encode_telling", "notice_record"]

BODY_BYTES_MAX = 64 * 1024
"""What is sent; with texts that make it longer it is sent without them."""
_PUSHED = ("waiting", "finished", "failed")
"""What browsers are told of: not of what the user has cancelled."""


class Telling(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Is what an outbox keeps of a notice: where it goes, what is sent, and how that went so far."""

    type: str
    made_at: int
    """When (ms) what it tells of happened, or it was asked for again: it is tried for a day from then on."""
    body: str
    url: str = ""
    """Of the webhook; with none it is for the user's browsers."""
    secret: str = ""
    of_run: bool = False
    """The webhook was named when the run was started; else it is the server's own."""
    user_id: str = ""
    """Who named it, where it is the run's; whose browsers are told."""
    done: list[str] = []
    """The user's browsers, by their subscriptions, that have got it."""
    status: Literal["pending", "delivered", "failed", "nobody"] = "pending"
    attempts: int = 0
    tried_at: int | None = None
    error: str = ""
    """What came of the last attempt."""

    def __repr__(self) -> str:
        return f"Telling({self.type}, {self.status})"


encode_telling = msgspec.json.Encoder().encode
decode_telling = msgspec.json.Decoder(Telling).decode


def notice_record(notice: Notice) -> NoticeRecord:
    """Return a notice of the outbox as clients see it. Raises `msgspec.DecodeError`."""
    telling = decode_telling(notice.data)
    return NoticeRecord(
        id=notice.id,
        type=telling.type,
        to=Webhook(url=telling.url).shown if telling.of_run else "server" if telling.url else "browsers",
        status=telling.status,
        attempts=telling.attempts,
        made_at=telling.made_at,
        tried_at=telling.tried_at,
        next_at=notice.due_at,
        error=telling.error,
    )


class Notices:
    """Makes the notices of runs, for whom the operator and their starters named."""

    def __init__(self, config: NotifyConfig) -> None:
        self._config = config

    def of_question(self, record: RunRecord, seq: int, interrupts: Sequence[Interrupt]) -> list[Notice]:
        """Tell that a run waits for answers to what it asks at position `seq`."""
        light = {"interrupts": [{"id": one.id, "reason": one.reason} for one in interrupts]}
        return self._made(record, "waiting", seq, light, {"interrupts": list(interrupts)})

    def of_end(self, record: RunRecord, seq: int, end: RunEnd) -> list[Notice]:
        """Tell that a run has ended, with its terminal event at position `seq`."""
        if end.error is None:
            return self._made(record, end.status.value, seq, {}, {})
        light = {"error": {"code": end.error.get("code", "")}}
        return self._made(record, end.status.value, seq, light, {"error": end.error})

    def _made(
        self, record: RunRecord, status: str, seq: int, light: dict[str, Any], whole: dict[str, Any]
    ) -> list[Notice]:
        webhooks = [(webhook, False) for webhook in self._config.webhooks]
        if record.notify is not None:
            webhooks.append((record.notify, True))
        notices, made_at, type = [], now_ms(), f"run.{status}"
        for webhook, of_run in webhooks:
            body = _body(record, type, status, seq, made_at, whole if webhook.text else light)
            if len(body) > BODY_BYTES_MAX:
                body = _body(record, type, status, seq, made_at, light)
            telling = Telling(
                type=type,
                made_at=made_at,
                body=body.decode(),
                url=webhook.url,
                secret=webhook.secret if of_run else "",
                of_run=of_run,
                user_id=record.user_id if of_run else "",
            )
            notices.append(_notice(record, telling))
        if self._config.push_key and status in _PUSHED:
            notices.append(_notice(record, _for_browsers(record, status)))
        return notices


def _notice(record: RunRecord, telling: Telling) -> Notice:
    return Notice(f"msg_{new_id()}", record.id, encode_telling(telling), telling.made_at)


def _for_browsers(record: RunRecord, status: str) -> Telling:
    """Make what the user's browsers are told. Which these are, and the title, is looked up when they are: the step that
    this is kept with waits for nothing."""
    made_at = now_ms()
    said = {
        "type": f"run.{status}",
        "status": status,
        "run_id": record.id,
        "session_id": record.session_id,
        "agent": record.agent,
        "at": made_at,
    }
    body = msgspec.json.encode(said).decode()
    return Telling(type=f"run.{status}", made_at=made_at, body=body, user_id=record.user_id)


def _body(record: RunRecord, type: str, status: str, seq: int, at: int, more: dict[str, Any]) -> bytes:
    """Return what is sent, as Standard Webhooks has it ("Payload structure")."""
    data = {
        "run_id": record.id,
        "session_id": record.session_id,
        "user_id": record.user_id,
        "agent": record.agent,
        "status": status,
        "seq": seq,
        **more,
    }
    timestamp = datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return msgspec.json.encode({"type": type, "timestamp": timestamp, "data": data})
