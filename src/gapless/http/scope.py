"""What the app and its streams say to each other in a request's ASGI scope, past what is between them."""

from __future__ import annotations

__all__ = ["DEFERRED", "SERVERS_RECEIVE", "WATCHED"]

DEFERRED = "gapless.deferred"
"""The list in which a stream puts itself, to be run when the framework's layers have returned: those layers would cost
a waiting follower 15 KiB and each of its frames a microsecond."""

SERVERS_RECEIVE = "gapless.receive"
"""The server's own `receive`, without what middleware puts around it."""

WATCHED = "fastapi.telemetry"
"""What FastAPI keeps of a request that it traces or counts, where OpenTelemetry is set up. The layer that does so takes
an answer that goes out after it has returned for one that failed."""
