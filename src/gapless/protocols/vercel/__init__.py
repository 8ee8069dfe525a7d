"""The AI SDK's clients."""

from __future__ import annotations

__all__ = ["ROUTES", "WIRES"]

WIRES = {
    "vercel": "gapless.protocols.vercel.wire:VercelEncoder",
}
ROUTES = "gapless.protocols.vercel.routes:VercelRoutes"
