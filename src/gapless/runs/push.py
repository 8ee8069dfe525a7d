"""Telling a user's browsers (Web Push): what each has subscribed with, and one encrypted POST for each of them.

The address that a browser gives is that of a push service, which carries the message to it (RFC 8030). It is encrypted
for the browser alone (RFC 8291), and signed by the server's key (RFC 8292): the service sees neither what is said nor
of which run. An address comes from a browser, that is from anybody: it is posted to as webhooks are.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gapless.errors import ExtraMissing, InputInvalid, StoreCorrupt, StoreUnavailable, UsageError
from gapless.journals.contract import Store
from gapless.journals.outbox import Notice
from gapless.journals.subscriptions import Subscription
from gapless.notify import URL_CHARS_MAX, NotifyConfig, number_from
from gapless.records import now_ms, title_of
from gapless.runs.notices import Telling
from gapless.runs.posting import Headers, Outcome, Poster

__all__ = ["SUBSCRIPTIONS_PER_USER_MAX", "Push", "PushKeys", "PushSubscription", "check_push", "new_keys", "service_of"]

SUBSCRIPTIONS_PER_USER_MAX = 10
"""Browsers of one user that are told; the one that was there longest ago makes room for another."""
CONNECTIONS_MAX = 240
"""What `AT_ONCE_TO_BROWSERS_MAX` attempts need at most (deliveries.py): none waits for another's."""
PUBLIC_KEY_BYTES, AUTH_BYTES = 65, 16
"""What a browser's keys have (RFC 8291, section 2)."""
KEY_CHARS_MAX = 100
PAYLOAD_BYTES_MAX = 3993
"""What is encrypted is then 103 bytes longer, and a service has to take 4096 (RFC 8291, section 4)."""
TOKEN_S = 12 * 3600
"""What signs a message holds for so long (RFC 8292, section 2: at most a day)."""
_GONE, _TOO_LARGE = (404, 410), 413
_URGENCY = {"waiting": "high"}
"""A person is waited for: this wakes a phone that sleeps (RFC 8030, section 5.3)."""

log = logging.getLogger("gapless.notify")


class PushKeys(msgspec.Struct, frozen=True):
    """What a message to a browser is encrypted with: its public key `p256dh`, and its secret `auth`."""

    p256dh: str
    auth: str


class PushSubscription(msgspec.Struct, frozen=True):
    """What a browser gives to be told: `PushSubscription` of the Push API, in JSON."""

    endpoint: str
    keys: PushKeys


def new_keys() -> tuple[str, str]:
    """Make a private key for `NotifyConfig.push_key`, and its public one. Raises `ExtraMissing`."""
    vapid = _vapid_class()()
    vapid.generate_keys()
    secret = vapid.private_key.private_numbers().private_value.to_bytes(32)
    return _written(secret), _public_key(vapid)


def check_push(config: NotifyConfig) -> str:
    """Return the public key of `config`, as browsers take it. Raises `ExtraMissing`, or `UsageError` for a key or a
    subject that push services would not take."""
    signer = _Signer(config)
    signer.signature("https://push.example.com/")
    return signer.public_key


class Push:
    """Tells browsers, and knows which. To be closed. Raises `ExtraMissing`, `UsageError`."""

    def __init__(self, config: NotifyConfig, store: Store) -> None:
        self._config = config
        self._store = store
        self.public_key = check_push(config)
        """What browsers subscribe with: no message that another key has signed is carried to them."""
        self._signer = _Signer(config)
        self._poster = Poster(config, CONNECTIONS_MAX)
        self.aclose = self._poster.aclose

    async def keep(self, user_id: str, given: PushSubscription) -> None:
        """Tell the browser that has `given` this of the runs of the user `user_id` from now on. Raises `InputInvalid`,
        `StoreUnavailable`."""
        if len(given.endpoint) > URL_CHARS_MAX or max(len(given.keys.p256dh), len(given.keys.auth)) > KEY_CHARS_MAX:
            raise InputInvalid(f"endpoint and keys: at most {URL_CHARS_MAX} and {KEY_CHARS_MAX} characters")
        try:
            self._config.check_address("endpoint", given.endpoint)
            whose = urlsplit(given.endpoint).username
        except ValueError:
            whose = ""
        if whose is not None:
            raise InputInvalid("endpoint: the address of a push service, https://…")
        try:
            self._request(given, b"{}")
        except Exception:  # of the libraries: a point that is on no curve, a host that no token can name
            raise InputInvalid("endpoint, keys: what a browser's `PushSubscription` has, as it gives it") from None
        data = msgspec.json.encode(given)
        kept = Subscription(_id_of(given.endpoint), user_id, data, now_ms())
        await self._store.subscriptions.keep(kept, SUBSCRIPTIONS_PER_USER_MAX)

    async def drop(self, user_id: str, endpoint: str) -> bool:
        """Tell the browser behind `endpoint` no more; False where it is none of the user's (`user_id`). Raises
        `StoreUnavailable`."""
        return await self._store.subscriptions.drop(user_id, _id_of(endpoint))

    async def browsers(self, telling: Telling) -> list[Subscription]:
        """Return the browsers of the user that have not got it yet. Raises `StoreUnavailable`."""
        kept = await self._store.subscriptions.of_user(telling.user_id)
        return [one for one in kept[:SUBSCRIPTIONS_PER_USER_MAX] if one.id not in telling.done]

    async def tell(self, notice: Notice, telling: Telling, browsers: list[Subscription], ttl_s: int) -> Outcome:
        """Send a notice to these browsers, and note in `telling` which have got it. A service keeps it for `ttl_s`
        seconds for a browser that is not there. Raises nothing but a cancel."""
        try:
            payload = await self._payload(notice, telling)
        except StoreUnavailable:
            return Outcome("the store could not be asked for the title")
        urgency = _URGENCY.get(telling.type.removeprefix("run."), "normal")
        more: Headers = {"ttl": str(max(0, ttl_s)), "topic": notice.id, "urgency": urgency}
        outcomes = await asyncio.gather(*(self._tell_one(one, telling, payload, more) for one in browsers))
        failed = [outcome for outcome in outcomes if outcome.error]
        if not failed:
            return Outcome(nobody=not telling.done)
        tried_again = [outcome for outcome in failed if not outcome.gone]
        pause_s = max((outcome.retry_after_s for outcome in tried_again), default=0)
        return Outcome((tried_again or failed)[0].error, gone=not tried_again, retry_after_s=pause_s)

    async def _tell_one(self, kept: Subscription, telling: Telling, payload: bytes, more: Headers) -> Outcome:
        try:
            given = msgspec.json.decode(kept.data, type=PushSubscription)
            url, headers, body = self._request(given, payload)
        except Exception as error:  # another version's: it may be one that this cannot read
            return Outcome(f"a browser's subscription cannot be used ({type(error).__name__})")
        outcome = await self._poster.post(url, headers | more, body)
        if outcome.status in _GONE:
            try:
                await self._store.subscriptions.drop(kept.user_id, kept.id)
            except StoreUnavailable:
                return outcome
            log.info("a browser of a user's is told no more: its push service has forgotten it")
            return Outcome()
        if outcome.status == _TOO_LARGE:
            return Outcome(outcome.error, outcome.status, gone=True)  # it will be as long the next time
        if not outcome.error:
            telling.done.append(kept.id)
        return outcome

    async def _payload(self, notice: Notice, telling: Telling) -> bytes:
        said: dict[str, Any] = {"id": notice.id, **msgspec.json.decode(telling.body)}
        if self._config.push_titles:
            said["title"] = await self._title(said["session_id"], notice.run_id)
        payload = msgspec.json.encode(said)
        assert len(payload) <= PAYLOAD_BYTES_MAX, "ids, names and titles are bounded"
        return payload

    async def _title(self, session_id: str, run_id: str) -> str:
        """Return the title as lists have it: until a run has ended, the first message's. Raises `StoreUnavailable`."""
        with contextlib.suppress(StoreCorrupt):  # of another version: it is told without
            session = await self._store.get_session(session_id)
            if session is not None and session.title:
                return session.title
            run = await self._store.get_run(run_id)
            return "" if run is None else title_of(run.message)
        return ""

    def _request(self, given: PushSubscription, payload: bytes) -> tuple[str, Headers, bytes]:
        from pywebpush import WebPusher

        keys = msgspec.to_builtins(given.keys)
        if (len(number_from(keys["p256dh"])), len(number_from(keys["auth"]))) != (PUBLIC_KEY_BYTES, AUTH_BYTES):
            raise ValueError("no keys of a browser")
        body = WebPusher({"endpoint": given.endpoint, "keys": keys}).encode(payload)["body"]
        headers: Headers = {"content-encoding": "aes128gcm", "content-type": "application/octet-stream"}
        return given.endpoint, headers | self._signer.signature(given.endpoint), body


class _Signer:
    """Says to push services who sends. Raises `ExtraMissing`, `UsageError`."""

    def __init__(self, config: NotifyConfig) -> None:
        kind = _vapid_class()
        try:
            self._vapid = kind.from_raw(config.push_key.encode())
        except Exception:  # whose text may have it
            raise UsageError("push_key: a private key as `gapless push-keys` makes it") from None
        self._subject = config.push_subject
        self.public_key = _public_key(self._vapid)

    def signature(self, url: str) -> Headers:
        """Return the header that signs a message to `url`. Raises `UsageError`."""
        parts = urlsplit(url)
        claims = {"aud": f"{parts.scheme}://{parts.netloc}", "sub": self._subject, "exp": int(time.time()) + TOKEN_S}
        try:
            signed: Headers = self._vapid.sign(claims)
        except Exception:  # its rules for the two are narrower than URLs are
            raise UsageError("push_subject: mailto:you@example.com or https://example.com, without a path") from None
        return signed


def service_of(kept: Subscription) -> str:
    """Return the name of the push service of a subscription, "" where it cannot be read."""
    try:
        return urlsplit(msgspec.json.decode(kept.data, type=PushSubscription).endpoint).netloc
    except (msgspec.DecodeError, ValueError):  # of another version
        return ""


def _id_of(endpoint: str) -> str:
    return hashlib.sha256(endpoint.encode()).hexdigest()[:32]


def _vapid_class() -> Any:
    try:
        import pywebpush  # noqa: F401  # what encrypts; the two come together
        from py_vapid import Vapid02
    except ImportError as error:
        raise ExtraMissing(f"push: telling browsers takes a package: pip install 'gapless[push]' ({error})") from error
    return Vapid02


def _public_key(vapid: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return _written(vapid.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def _written(number: bytes) -> str:
    return base64.urlsafe_b64encode(number).decode().rstrip("=")
