"""Who is asking, and may they: the one place where requests are authenticated and runs are authorised."""

from __future__ import annotations

import functools
import hashlib
import hmac
import inspect
import ipaddress
import logging
import os
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from gapless.agents.base import SEE_LOG, class_and_place
from gapless.errors import (
    GaplessError,
    InputInvalid,
    NotAuthenticated,
    NotAuthorized,
    RunNotFound,
    SessionNotFound,
    UsageError,
)
from gapless.given import article
from gapless.records import RunRecord, SessionRecord
from gapless.runs.request import check_user

__all__ = [
    "ANONYMOUS",
    "Access",
    "Authenticate",
    "Authorize",
    "Guard",
    "check_own_page",
    "keys_from_environment",
    "users_from_environment",
]

ANONYMOUS = "anonymous"
"""The user of every request where no authentication is configured."""
KEY_CHARS_MIN = 16
OPERATORS_ACTIONS = frozenset({"read", "cancel", "answer"})
"""What an operator may do to runs and sessions of others."""
HOSTS_KNOWN_MAX = 64
"""Names under which the server is called, of which it is remembered whether they are addresses."""
SHARED = "app:"
"""How the keys of state begin that all users of an app share (ADK's `State.APP_PREFIX`)."""
PAGES = frozenset({"", "/", "/docs", "/runs", "/dev-ui"})
"""Where links from other web sites may lead, beside what is under /static/ and /dev-ui/."""

log = logging.getLogger("gapless.http")

_RecordT = TypeVar("_RecordT", RunRecord, SessionRecord)

Authenticate: TypeAlias = Callable[[HTTPConnection], str | Awaitable[str | None] | None]
"""A request → the id of its user, or None for nobody known."""
Authorize: TypeAlias = Callable[[str, str, RunRecord | SessionRecord], bool | Awaitable[bool]]
"""(user id, "read" | "cancel" | "answer" | "produce" | "notify" | "update" | "delete", run or session) → may they."""


def _owns(user_id: str, action: str, record: RunRecord | SessionRecord) -> bool:
    return record.user_id == user_id


class Access:
    """Authenticates every request and authorises every use of a run or session."""

    def __init__(
        self,
        authenticate: Authenticate | None = None,
        authorize: Authorize | None = None,
        *,
        shared_state: bool = False,
        operators: Collection[str] = (),
    ) -> None:
        """Without `authenticate`, the keys of the environment. `shared_state`: clients may set state that all users
        share. `operators` are users who see all runs, cancel and answer them. Raises `UsageError` for bad keys."""
        self._authenticate = authenticate or keys_from_environment()
        self._by_key = authenticate is None
        self._authorize = authorize or _owns
        self._shared_state = shared_state
        self._operators = frozenset(operators)

    def is_operator(self, user: str) -> bool:
        """Tell whether a user may see all runs, cancel and answer them."""
        return user in self._operators

    @property
    def open(self) -> bool:
        """No authentication is configured."""
        return self._authenticate is None

    async def user(self, request: HTTPConnection) -> str:
        """Return the id of the user who asks. Raises `NotAuthenticated`; a `GaplessError` with status 500, which is no
        fault of who asks, where `authenticate` raises or returns what is no user's id."""
        if self._authenticate is None:
            return ANONYMOUS
        user: str = await _told_by("authenticate", self._authenticate, request)
        if not user:
            raise NotAuthenticated(self._why_unknown(request))
        try:
            check_user(user)
        except InputInvalid as error:
            raise _fault(f"authenticate returned no user's id: {error.message}") from None
        return user

    def _why_unknown(self, request: HTTPConnection) -> str:
        if not self._by_key:
            return "it is not known who asks: log in where this site has its users do so"
        if "authorization" in request.headers or "x-api-key" in request.headers:
            return "this server does not know that API key"
        return "it is not known who asks: send an API key, as Authorization: Bearer <key>"

    def own_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state that a client sends without what it may not set: what other users' agents read."""
        return {key: value for key, value in state.items() if self._shared_state or not key.startswith(SHARED)}

    def check_state(self, state: dict[str, Any] | None) -> None:
        """Raises `NotAuthorized` for state that a client may not set."""
        state = state or {}
        if shared := sorted(state.keys() - self.own_state(state).keys()):
            raise NotAuthorized(
                f"all users share the state under {', '.join(shared)[:200]}: leave it out; the operator may let "
                "clients set it with create_app(shared_state=True)"
            )

    async def find(
        self, request: HTTPConnection, action: str, get: Callable[[str], Awaitable[_RecordT]], id: str
    ) -> _RecordT:
        """Return the run or session that `get` has under this id, for a caller who may do this to it. Who asks comes
        first: to nobody known, no record is told from none. Raises `NotAuthenticated`, `RunNotFound`,
        `SessionNotFound`.
        """
        user = await self.user(request)
        record = await get(id)
        await self.check(request, action, record, user=user)
        return record

    async def check(
        self, request: HTTPConnection, action: str, record: RunRecord | SessionRecord, *, user: str | None = None
    ) -> str:
        """Return the user's id; `user` gives it where the caller knows it. Raises `RunNotFound` or `SessionNotFound`
        where they may not: it does not exist for them; what `user` raises, also where `authorize` says neither True nor
        False: a text such as "no" would count as a yes.
        """
        user = user or await self.user(request)
        if user in self._operators and action in OPERATORS_ACTIONS:
            return user
        allowed = await _told_by("authorize", self._authorize, user, action, record)
        if not isinstance(allowed, bool):
            said = "None" if allowed is None else article(type(allowed).__name__)
            raise _fault(f"authorize returned {said}, and not True or False: the operator has to mend it")
        if not allowed:
            if isinstance(record, RunRecord):
                raise RunNotFound(f"no run {record.id}", run_id=record.id)
            raise SessionNotFound(f"no session {record.id}")
        return user


async def _told_by(name: str, hook: Callable[..., Any], *asked: Any) -> Any:
    """Return what a function of the operator's own says. What it refuses itself is passed on; raises a `GaplessError`
    with status 500 for anything else that it raises, which may hold what is not for clients."""
    try:
        said = hook(*asked)
        return await said if inspect.isawaitable(said) else said
    except (GaplessError, HTTPException):
        raise
    except Exception as error:
        log.error("%s raised %s", name, class_and_place(error))
        log.debug("%s", name, exc_info=error)
        raise GaplessError(f"{name} raised {type(error).__name__}{SEE_LOG}") from error


def _fault(what: str) -> GaplessError:
    """Log what is the operator's to mend, and return it as an error."""
    log.error("%s", what)
    return GaplessError(what)


def keys_from_environment(variable: str = "GAPLESS_API_KEYS") -> Authenticate | None:
    """Authentication by the API keys in an environment variable: `alice=KEY,bob=KEY` or plain `KEY,KEY`; None if unset.

    A key without a name stands for a user of its own, `key-` and the start of its hash. Keys come as
    `Authorization: Bearer KEY` or `X-API-Key: KEY`.
    Raises `UsageError` for a key shorter than 16 characters or of two users, and where there is none in the variable.
    """
    users = _users(variable)
    if users is None:
        return None

    def authenticate(request: HTTPConnection) -> str | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = request.headers.get("x-api-key", "")
        digest = hashlib.sha256(key.strip().encode()).digest()
        found = None
        for known, user in users.items():  # every one of them, so that time tells nothing
            if hmac.compare_digest(known, digest):
                found = user
        return found

    return authenticate


def users_from_environment(variable: str = "GAPLESS_API_KEYS") -> list[str] | None:
    """Return the ids of the users whose keys are in the variable; None if unset. Raises as `keys_from_environment`."""
    users = _users(variable)
    return None if users is None else sorted(set(users.values()))


def _users(variable: str) -> dict[bytes, str] | None:
    """Users by the hash of their key."""
    setting = os.environ.get(variable)
    if setting is None:
        return None
    entries = [entry.strip() for entry in setting.split(",") if entry.strip()]
    if not entries:  # whoever sets it means to keep others out
        raise UsageError(f"{variable} is set and there is no key in it: set name=key, or unset it to let anyone in")
    users: dict[bytes, str] = {}
    for entry in entries:
        name, named, key = entry.partition("=")
        if not named or not key:
            name, key = "", entry
        if len(key) < KEY_CHARS_MIN:
            raise UsageError(f"{variable}: a key is shorter than {KEY_CHARS_MIN} characters; make longer ones")
        digest = hashlib.sha256(key.encode()).digest()
        user = name or f"key-{digest.hex()[:12]}"
        if users.setdefault(digest, user) != user:  # one of them would have what is the other's
            raise UsageError(f"{variable}: {users[digest]} and {user} have the same key; give each one of their own")
    return users


class Guard:
    """Keeps other web sites' pages from using a server that trusts its network.

    `hosts`: the names it may be called by, against DNS rebinding, `*` for any; None for those that no other site can
    have: `localhost` and addresses. A browser's request from a page of another origin is refused, whatever its method,
    unless that is in `origins`. To go to one of the server's own pages by a link is no use of the server, and allowed.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: frozenset[str] | None,
        origins: frozenset[str],
        answer: Callable[[GaplessError], ASGIApp],
    ) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._origins = origins
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            host = headers.get(b"host", "").lower()
            if [name for name, _ in scope["headers"]].count(b"host") > 1:
                error = NotAuthorized("the request names several hosts; send one Host header (RFC 9112, section 3.2)")
                return await self._answer(error)(scope, receive, send)
            before, _, port = host.rpartition(":")
            name = before if port.isdigit() else host
            if not self._knows(name):
                known = "localhost or an address" if self._hosts is None else f"one of {sorted(self._hosts)}"
                error = NotAuthorized(
                    f"this server is not known as {name[:100]!r}: use {known}; the operator adds names (allowed_hosts)"
                )
                return await self._answer(error)(scope, receive, send)
            invited = "*" in self._origins or headers.get(b"origin") in self._origins
            if not invited and _is_foreign(headers, host) and not _opens_page(scope, headers):
                error = NotAuthorized("this server does not answer other web sites; allow yours with cors_origins")
                return await self._answer(error)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _knows(self, name: str) -> bool:
        """Whether the server may be called by this name. No page of another site can have it looked up to an address
        of its choice where it is an address itself."""
        if self._hosts is not None:
            return name in self._hosts or "*" in self._hosts
        return name in ("localhost", "") or _is_address(name)  # before HTTP/1.1 there was no Host; browsers send one


@functools.lru_cache(HOSTS_KNOWN_MAX)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def check_own_page(request: HTTPConnection) -> None:
    """Refuse a GET that does something, where a page of another site may have made a browser send it: an `<img>` over
    plain HTTP has neither Origin nor Fetch Metadata (which browsers send to HTTPS and to localhost only, and by which
    `Guard` judges). Raises `NotAuthorized`."""
    headers = request.headers
    if "sec-fetch-site" in headers or "origin" in headers or "mozilla/" not in headers.get("user-agent", "").lower():
        return
    if urlsplit(headers.get("referer", "")).netloc.lower() != headers.get("host", "").lower():
        raise NotAuthorized(
            "this GET would start a run, and it is not known which page asks: send a POST, or a Referer of this server"
        )


def _is_foreign(headers: dict[bytes, str], host: str) -> bool:
    """Return whether a browser asks, and not for a page of this server. Sites are no bound: another port is the same
    site.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:  # Fetch Metadata: no page can set it, and it holds behind proxies that change the host
        return site not in ("same-origin", "none")
    origin = headers.get(b"origin")
    return origin is not None and origin.partition("://")[2].lower() != host


def _opens_page(scope: Scope, headers: dict[bytes, str]) -> bool:
    """Return whether a person follows a link to a page, in a tab of its own."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return (
        scope.get("method") in ("GET", "HEAD")
        and headers.get(b"sec-fetch-mode") == "navigate"
        and headers.get(b"sec-fetch-dest", "document") == "document"
        and (path in PAGES or path.startswith(("/static/", "/dev-ui/")))
        and (path != "/runs" or "text/html" in headers.get(b"accept", ""))  # else it is a list for programs
    )
