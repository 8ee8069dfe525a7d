"""Telling a webhook: one signed POST, which is Standard Webhooks' (https://www.standardwebhooks.com, "Webhook headers"
and "Signature scheme")."""

from __future__ import annotations

from datetime import UTC, datetime

from standardwebhooks import Webhook as Signer

from gapless.notify import NotifyConfig, keys_of
from gapless.runs.posting import Headers, Outcome, Poster

__all__ = ["Webhooks"]

CONNECTIONS_MAX = 32


class Webhooks:
    """Tells webhooks. To be closed."""

    def __init__(self, config: NotifyConfig) -> None:
        self._poster = Poster(config, CONNECTIONS_MAX)
        self.aclose = self._poster.aclose

    async def tell(self, url: str, secret: str, notice_id: str, body: str) -> Outcome:
        """Send `body` under this id, signed with each of the keys in `secret`. Raises nothing but a cancel."""
        keys = keys_of(secret)
        if not keys:
            return Outcome("there is no secret to sign it with")
        now = datetime.now(UTC)
        headers: Headers = {
            "content-type": "application/json",
            "webhook-id": notice_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(Signer(key).sign(notice_id, now, body) for key in keys),
        }
        return await self._poster.post(url, headers, body.encode())
