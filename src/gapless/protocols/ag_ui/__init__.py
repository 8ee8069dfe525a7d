"""AG-UI's clients, TanStack AI among them."""

from __future__ import annotations

__all__ = ["ROUTES", "WIRES"]

WIRES = {
    "ag-ui": "gapless.protocols.ag_ui.wire:AGUIEncoder",
}
ROUTES = "gapless.protocols.ag_ui.routes:AGUIRoutes"
