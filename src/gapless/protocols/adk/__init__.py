"""ADK's clients: programs written for its own server, and its web page."""

from __future__ import annotations

__all__ = ["ROUTES", "WIRES"]

WIRES = {
    "adk": "gapless.protocols.adk.wire:ADKEncoder",
}
ROUTES = "gapless.protocols.adk.routes:ADKRoutes"
