"""The simplest clients: `GET` and `POST /chat/stream`, and a browser's own `EventSource`."""

from __future__ import annotations

__all__ = ["ROUTES", "WIRES"]

WIRES = {
    "text": "gapless.protocols.text.wire:TextEncoder",
}
ROUTES = "gapless.protocols.text.routes:TextRoutes"
