"""Where it is told that a run waits or has ended, and what bounds that."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from gapless.errors import InputInvalid
from gapless.given import check_given, check_number

__all__ = ["NoticeRecord", "NotifyConfig", "Webhook", "as_webhook", "is_public", "keys_of", "number_from"]

URL_CHARS_MAX = 2048
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64
"""Of one secret, decoded (Standard Webhooks, "Signature scheme")."""
SECRETS_MAX = 4
"""In one `secret`: while one is replaced, receivers may have either."""
WEBHOOKS_MAX = 20
TIMEOUT_S_MAX = 60.0
PUSH_KEY_BYTES = 32
"""Of a private key on the curve P-256, which is a number (RFC 8292, section 2)."""
SECRET_PREFIX = "whsec_"  # noqa: S105  # what secrets begin with, and none of them


class Webhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Names an address that is told when a run waits for a person, and when it has ended.

    Raises `ValueError` for what is no such address, or no secret.
    """

    url: str
    """Gets a POST, signed as Standard Webhooks has it. `https://…`."""
    secret: str = ""
    """What signs it, `whsec_…`, which the receiver has too; several, with spaces or commas between them, while one is
    replaced. By default the server's."""
    text: bool = False
    """Send what is asked, and what an error says, too; by default only ids and statuses are sent."""

    def __post_init__(self) -> None:
        check_given("url", self.url, str, "an address, https://…", ValueError)
        check_given("secret", self.secret, str, "a text, whsec_…", ValueError)
        check_given("text", self.text, bool, "true or false", ValueError)
        parts = _parts(self.url)
        if parts.username is not None or parts.password is not None:
            raise ValueError("url: without a user and a password in it; it is the signature that says who sends")
        keys_of(self.secret)

    def __repr__(self) -> str:  # the secret, and what may be one in the path, is for no log
        return f"Webhook(url={self.shown!r})"

    @property
    def shown(self) -> str:
        """The address as it may be shown: without its path, which may be secret."""
        parts = _parts(self.url)
        return f"{parts.scheme}://{parts.netloc}/…"


class NotifyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Says who is told that runs wait or have ended, and what may be asked for. With a `push_key` browsers are told of
    their users' runs, where these want it (Web Push, RFC 8030); it takes the extra `push`.

    Raises `ValueError` for what does not fit.
    """

    webhooks: tuple[Webhook, ...] = ()
    """These are told of all runs."""
    secret: str = ""
    """Signs what is sent to webhooks that have no secret of their own."""
    clients: bool = True
    """Whether clients of the server may name a webhook for a run that they start."""
    http: bool = False
    """Whether an address may be `http://…` too: whoever is on the way reads what is sent."""
    private: bool = False
    """Whether an address may be one of this machine or its network."""
    timeout_s: float = 15.0
    """What a receiver may take to answer."""
    push_key: str = ""
    """Signs what is sent to browsers, as VAPID has it (RFC 8292): a private key that `gapless push-keys` makes.
    Browsers that subscribed with another one are told nothing until their users come back."""
    push_subject: str = ""
    """Who runs the server, for the services that carry what is sent to browsers: `mailto:…` or `https://…`."""
    push_titles: bool = True
    """Whether the conversation's title is sent to browsers: encrypted, but then it is shown, perhaps on a locked
    screen."""

    def __post_init__(self) -> None:
        check_given("webhooks", self.webhooks, list | tuple, "a list of gapless.Webhook", ValueError)
        for name in ("clients", "http", "private", "push_titles"):
            check_given(name, getattr(self, name), bool, "true or false", ValueError)
        check_given("timeout_s", self.timeout_s, int | float, "a number of seconds", ValueError)
        check_number("timeout_s", self.timeout_s, 0.1, TIMEOUT_S_MAX, ValueError)
        if len(self.webhooks) > WEBHOOKS_MAX:
            raise ValueError(f"webhooks: at most {WEBHOOKS_MAX}")
        keys_of(self.secret)
        self._check_push()
        for webhook in self.webhooks:
            check_given("webhooks", webhook, Webhook, "a list of gapless.Webhook", ValueError)
            self.check(webhook, ValueError)

    def __repr__(self) -> str:
        return f"NotifyConfig(webhooks={self.webhooks!r})"

    def _check_push(self) -> None:
        if not self.push_key:
            return
        if len(number_from(self.push_key)) != PUSH_KEY_BYTES:
            raise ValueError("push_key: a private key as `gapless push-keys` makes it")
        if not self.push_subject.startswith(("mailto:", "https://")):
            raise ValueError("push_subject: who runs the server, mailto:you@example.com or https://example.com")

    def check_address(self, name: str, url: str, error: type[Exception] = InputInvalid) -> None:
        """Raise `error` for a `url`, given as `name`, that nothing may be sent to. An address behind a host's name is
        looked at when something is."""
        parts = _parts(url)
        if parts.scheme == "http" and not self.http:
            raise error(f"{name}: https://… here; http is the operator's to allow")
        host = parts.hostname or ""
        if not self.private and (host == "localhost" or host.endswith(".localhost") or not _may_be_public(host)):
            raise error(f"{name}: {host} is no public address; others are the operator's to allow")

    def check(self, webhook: Webhook, error: type[Exception] = InputInvalid) -> None:
        """Raise `error` for a `webhook` that could not be told."""
        self.check_address("notify.url", webhook.url, error)
        if not (webhook.secret or self.secret):
            raise error("notify.secret: the server has none that would sign what is sent; give one, whsec_…")


class NoticeRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Describes one notice as clients see it: its `status` after so many `attempts`, when what it tells of happened or
    it was asked for again (`made_at`), and when it was `tried_at` last. Times are milliseconds since the Unix epoch."""

    id: str
    """Its `webhook-id`, the same at each attempt."""
    type: str
    """`run.waiting`, `run.finished`, `run.failed` or `run.cancelled`."""
    to: str
    """The webhook's address without its path, `server` for the server's own, or `browsers` for those of the user."""
    status: Literal["pending", "delivered", "failed", "nobody"]
    """`nobody`: it was for the user's browsers, and there was none to tell."""
    attempts: int
    made_at: int
    tried_at: int | None = None
    next_at: int | None = None
    """When it is tried next."""
    error: str = ""
    """What came of the last attempt, where that was not taken."""


def as_webhook(given: Any) -> Webhook | None:
    """Return the webhook that `given` is, names or describes. Raises `InputInvalid`."""
    if given is None or isinstance(given, Webhook):
        return given
    try:
        return Webhook(url=given) if isinstance(given, str) else msgspec.convert(given, Webhook)
    except ValueError as error:
        raise InputInvalid(f"notify: {error}") from None


def keys_of(secret: str) -> list[str]:
    """Return the secrets that `secret` holds. Raises `ValueError` for what is none, without showing it."""
    keys = secret.replace(",", " ").split()
    if len(keys) > SECRETS_MAX:
        raise ValueError(f"secret: at most {SECRETS_MAX} of them")
    for key in keys:
        encoded = key.removeprefix(SECRET_PREFIX)
        try:
            size = len(base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True))
        except (binascii.Error, ValueError):
            size = 0
        if not (key.startswith(SECRET_PREFIX) and SECRET_BYTES_MIN <= size <= SECRET_BYTES_MAX):
            raise ValueError(
                f"secret: {SECRET_PREFIX} and {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} random bytes in base64, such as "
                f"`echo {SECRET_PREFIX}$(openssl rand -base64 32)` prints"
            )
    return keys


def number_from(text: str) -> bytes:
    """Return the bytes that `text` is in base64url, as keys of Web Push are written; none where it is nothing such."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Where a network that has IPv6 only reaches IPv4 (RFC 6052, section 2.1)."""
_UNICAST = ipaddress.ip_network("2000::/3")
"""All that is allocated of IPv6 (RFC 4291, section 2.4; IANA's "IPv6 Global Unicast Address Assignments"). Outside it
are site-local addresses (RFC 3879), too, which `is_global` takes for global."""
_NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("3fff::/20", "168.63.129.16/32")))
"""Documentation (RFC 9637), and Azure's address for what a machine's own host serves: there each machine means another
by it."""


def is_public(address: str) -> bool:
    """Tell whether an IP address, as it is written, is one that everybody on the internet means the same by. One that
    holds another (IPv4 in IPv6, 6to4, Teredo, NAT64) is what that is."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in _NAT64 else found.ipv4_mapped
        if translated is not None:
            return is_public(str(translated))
        inner = [found.sixtofour, *(found.teredo or ())]
        if any(one is not None and not is_public(str(one)) for one in inner):
            return False
        if found not in _UNICAST:
            return False
    if any(found in network for network in _NOT_PUBLIC):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def _may_be_public(host: str) -> bool:
    """False for an address that is not public. A name is looked up when it is connected to."""
    try:
        return is_public(host)
    except ValueError:
        return True


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = None
    if not known or len(url) > URL_CHARS_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"url: an address, https://…, of at most {URL_CHARS_MAX} ASCII characters")
    return parts
