"""A push service and its browsers: it checks who sends, and a browser decrypts what is for it."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import http_ece
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid import Vapid02

from gapless import NotifyConfig
from tests.support.receiver import Receiver

__all__ = ["KEY", "PUBLIC_KEY", "SUBJECT", "PushService", "push_config"]

KEY, SUBJECT = "Gv2vp33nY8fvIHHGG6q4ONk1rzvZXQE_9xMOfydAzTY", "mailto:ops@example.com"
PUBLIC_KEY = "BIUK4t9a_za7RUGfmqLGCrT22CE5atB46pug3Rp6aMyVeSas4rEhIdM4DkOSjCqSAlooF3rWbiMkz42TZyGHUwU"
_CURVE = ec.SECP256R1()


def push_config(**more: Any) -> NotifyConfig:
    """Settings with which a service on this machine can be told."""
    return NotifyConfig(**{"push_key": KEY, "push_subject": SUBJECT, "http": True, "private": True, **more})


def _written(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _read(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class PushService(Receiver):
    """Listens on loopback. `received` has a browser's name and what it was told, for each message; `answers` what each
    browser's messages are answered with, where that is not 201."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port)
        self.answers: dict[str, bytes | None] = {}
        self._browsers: dict[str, tuple[ec.EllipticCurvePrivateKey, bytes]] = {}

    def subscription(self, name: str) -> dict[str, Any]:
        """What a browser of this name gives, as `PushSubscription.toJSON` has it."""
        key, secret = self._browsers.setdefault(name, (ec.generate_private_key(_CURVE), os.urandom(16)))
        public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return {
            "endpoint": f"http://127.0.0.1:{self.port}/push/{name}",
            "expirationTime": None,
            "keys": {"p256dh": _written(public), "auth": _written(secret)},
        }

    def told(self, name: str) -> list[dict[str, Any]]:
        """What this browser was told, in order."""
        return [said for browser, said in self.received if browser == name]

    def _heard(self, head: str, headers: dict[str, str], body: bytes) -> tuple[str, Any]:
        name = head.split(" ")[1].removeprefix("/push/")
        try:
            return name, self._opened(name, headers, body)
        except Exception as error:
            self.unverified += 1
            return name, {"fault": repr(error)}

    def _opened(self, name: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        self._check_sender(headers["authorization"])
        assert headers["content-encoding"] == "aes128gcm"
        assert len(body) <= 4096
        key, secret = self._browsers[name]
        said: dict[str, Any] = json.loads(
            http_ece.decrypt(body, private_key=key, auth_secret=secret, version="aes128gcm")
        )
        assert headers["topic"] == said["id"], "of two, a service keeps one"
        assert len(headers["topic"]) <= 32
        assert 0 <= int(headers["ttl"]) <= 24 * 3600
        return said

    def _check_sender(self, authorization: str) -> None:
        """RFC 8292, section 4.2."""
        assert Vapid02.verify(authorization)
        fields = dict(part.split("=", 1) for part in authorization.removeprefix("vapid ").split(","))
        assert fields["k"] == PUBLIC_KEY
        claims = json.loads(_read(fields["t"].split(".")[1]))
        assert claims["aud"] == f"http://127.0.0.1:{self.port}"
        assert claims["sub"] == SUBJECT
        assert time.time() < claims["exp"] <= time.time() + 24 * 3600

    def _answer(self, head: str) -> bytes | None:
        name = head.split(" ")[1].removeprefix("/push/")
        return self.answers.get(name, b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
