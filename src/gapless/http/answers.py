"""What the routes share: a body is read, a record or an error is the answer."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from gapless.aside import ASIDE_BYTES
from gapless.errors import GaplessError, InputInvalid, InputTooLarge
from gapless.jsontext import decode_json
from gapless.notify import Webhook, as_webhook
from gapless.records import AFTER, Listing, RunRecord, SessionRecord, title_of
from gapless.runs.runner import Runner
from gapless.user_message import mark_of

__all__ = [
    "LIST_LIMIT_MAX",
    "answer_error",
    "asked_webhook",
    "chosen_run_id",
    "header",
    "json_response",
    "list_params",
    "long_json_response",
    "paged",
    "public",
    "raw_json_response",
    "read_body",
    "read_optional_body",
    "settled",
    "shown_session",
    "wants_stream",
    "whole_number",
]

LIST_LIMIT, LIST_LIMIT_MAX = 100, 1000
"""Records on one page of a list, where the client does not say, and at most."""
NUMBER_DIGITS_MAX = 15
"""Bounds a number in a query: fits a position of any store, and JavaScript's numbers."""

log = logging.getLogger("gapless.http")

_RUN_ID = re.compile(rb"run_?[iI]d")
_NUMBER = re.compile(rf"[0-9]{{1,{NUMBER_DIGITS_MAX}}}")
_T = TypeVar("_T")
_encode = msgspec.json.Encoder().encode
_JSON_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with this content as JSON."""
    return raw_json_response(_encode(content), status, headers)


async def long_json_response(content: dict[str, Any]) -> Response:
    """Answer with these fields as JSON, of which the lists may be long: they are encoded in steps, between which other
    tasks have their turn."""
    body, bytes_since = bytearray(b"{"), 0
    for name, value in content.items():
        body += b"%b%b:" % (b"," if len(body) > 1 else b"", _encode(name))
        if not isinstance(value, list):
            body += _encode(value)
            continue
        body += b"["
        for number, item in enumerate(value):
            encoded = _encode(item)
            body += b"," if number else b""
            body += encoded
            bytes_since += len(encoded)
            if bytes_since > ASIDE_BYTES:
                bytes_since = 0
                await asyncio.sleep(0)
        body += b"]"
    body += b"}"
    return raw_json_response(bytes(body))


def raw_json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with this JSON. No browser takes it for something else, or keeps what is one user's."""
    return Response(body, status, {**_JSON_HEADERS, **(headers or {})}, media_type="application/json")


def answer_error(error: GaplessError) -> Response:
    """Return an error before the first byte: its HTTP status and `{"error": {"code", "message", "run_id"?}}`."""
    body = {"code": error.code, "message": error.told}
    if error.told != error.message:
        log.warning("answered %s: %s", error.code, error.message)
    if error.run_id is not None:
        body["run_id"] = error.run_id
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return json_response({"error": body}, error.status, headers)


def header(request: HTTPConnection, name: bytes) -> str | None:
    """Return a header by its `name` in lower case, as Starlette's `headers.get` does; that makes and drops an exception
    for one that is not there, as most are not."""
    found: bytes | None = dict(reversed(request.scope["headers"])).get(name)  # the first, where there are several
    return None if found is None else found.decode("latin-1")


async def read_body(request: Request, type: type[_T], bytes_max: int) -> _T:
    """Return the request's JSON body as `type`. Raises `InputTooLarge`, `InputInvalid`, HTTP 415 for another content
    type.
    """
    content_type = (header(request, b"content-type") or "").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise HTTPException(415, f"send application/json, not {content_type or 'a body without content type'}")
    declared = header(request, b"content-length") or ""
    if _NUMBER.fullmatch(declared) and int(declared) > bytes_max:
        raise InputTooLarge(f"the body is {declared} bytes, over body_bytes_max={bytes_max}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise InputTooLarge(f"the body is over body_bytes_max={bytes_max} bytes")
    try:
        content = decode_json(body, type)
    except msgspec.DecodeError as error:
        raise InputInvalid(f"the body does not fit: {error}") from None
    request.state.named = _run_named_in(body)
    return content


async def read_optional_body(request: Request, type: type[_T], bytes_max: int) -> _T | None:
    """Read the request's body as `read_body` does; None where the client has left it out."""
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return None
    return await read_body(request, type, bytes_max)


class _Naming(msgspec.Struct):
    run_id: str | None = None
    runId: str | None = None  # noqa: N815  # AG-UI's spelling


def _run_named_in(body: bytearray) -> str | None:
    if not _RUN_ID.search(body):
        return None
    try:
        naming = decode_json(body, _Naming)
    except msgspec.DecodeError:
        return None
    return naming.runId if naming.run_id is None else naming.run_id


def chosen_run_id(request: HTTPConnection, user: str) -> str | None:
    """Return the id of the run that a request starts, where the client chose one or said how to know the request again:
    in the body that was read, the query or a header. It is the same on every route, since durable clients, which know
    no routes, repeat a request that does.
    """
    named: str | None = getattr(request.state, "named", None)
    query = request.query_params
    for run_id in (named, query.get("run_id"), query.get("runId"), header(request, b"x-run-id")):
        if run_id is not None:
            return run_id
    key = header(request, b"idempotency-key")
    return None if key is None else "key-" + hashlib.sha256(f"{user}\n{key}".encode()).hexdigest()[:32]


def asked_webhook(request: HTTPConnection) -> Webhook | None:
    """Return who is told of the run that a request starts, by its header `X-Notify`: an address, or a webhook as JSON.
    A header, since clients of every family can send one, and their bodies are not ours. Raises `InputInvalid`.
    """
    given = header(request, b"x-notify")
    if given is None:
        return None
    if len(request.headers.getlist("x-notify")) > 1:
        raise InputInvalid("X-Notify: one webhook; who is told of every run is the operator's to name")
    if not given.lstrip().startswith("{"):
        return as_webhook(given)
    try:
        return as_webhook(decode_json(given, dict[str, Any]))
    except msgspec.DecodeError as error:
        raise InputInvalid(f"X-Notify: an address, or JSON as `notify` in the body of POST /runs: {error}") from None


def whole_number(request: Request, name: str, default: int, *, least: int = 0, most: int | None = None) -> int:
    """Return a whole number in the query. Raises `InputInvalid` for anything else, and for one out of bounds."""
    text = request.query_params.get(name)
    if text is None:
        return default
    number = int(text) if _NUMBER.fullmatch(text) else -1
    if number < least or (most is not None and number > most):
        most = 10**NUMBER_DIGITS_MAX - 1 if most is None else most
        raise InputInvalid(f"{name} is a whole number from {least} to {most}")
    return number


def list_params(request: Request) -> dict[str, Any]:
    """`?limit=` and `?after=` of a list, as the runner takes them. Raises `InputInvalid`."""
    limit = whole_number(request, "limit", LIST_LIMIT, least=1, most=LIST_LIMIT_MAX)
    return {"limit": limit, "after": request.query_params.get("after")}


def wants_stream(request: Request) -> bool:
    """True if `Accept` asks for an event stream."""
    return "text/event-stream" in (header(request, b"accept") or "")


def paged(name: str, shown: list[Any], listing: Listing[Any]) -> dict[str, Any]:
    """Return the answer with this page of a list."""
    return {name: shown} if listing.next is None else {name: shown, "next": listing.next}


def shown_session(session: SessionRecord, active: RunRecord | None) -> dict[str, Any]:
    """Return a session as lists have it, with its run that has not ended."""
    record = public(session)
    if active is not None:
        record["active_run_id"], record["active_run_status"] = active.id, active.status.value
        record.setdefault("title", title_of(active.message))  # it gets its title when its first run ends
    return record


def public(record: RunRecord | SessionRecord) -> dict[str, Any]:
    """Return a record as clients see it."""
    shown: dict[str, Any] = msgspec.to_builtins(record)
    for hidden in ("owner", "takeovers", "digest", "input", "config", "request", "expired", "notify"):
        shown.pop(hidden, None)
    if isinstance(record, RunRecord):
        shown["status"], shown["last_seq"] = record.status.value, record.last_seq
        if (after := mark_of(record.input, AFTER)) is not None:
            shown["after_run_id"] = after
    return shown


async def settled(runner: Runner, request: Request, run: RunRecord) -> RunRecord | None:
    """Return the run's record once it has ended or waits for a person, for a route that answers then; None when the
    client has hung up before. It counts as one who follows the run for as long. Raises what following raises.
    """
    ending = asyncio.ensure_future(runner.readers.settled(run))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({ending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return ending.result() if ending.done() else None
    finally:
        leaving.cancel()
        ending.cancel()


async def _left(request: Request) -> None:
    """Wait until the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
