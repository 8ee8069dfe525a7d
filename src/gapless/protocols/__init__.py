"""The families of clients, a folder each: its wires, what its clients send, its routes.

To add a family: one folder, which declares `WIRES` (name → encoder) and `ROUTES` (a `ClientRoutes`), and one line here.
"""

from __future__ import annotations

from gapless.protocols import adk, ag_ui, openai, text, vercel

__all__ = ["FAMILIES", "ROUTES", "WIRES"]

FAMILIES = (
    adk,
    ag_ui,
    openai,
    text,
    vercel,
)

WIRES: dict[str, str] = {name: encoder for family in FAMILIES for name, encoder in family.WIRES.items()}
"""Every wire's encoder by its name, as `module:name`: a process loads those that it uses."""
ROUTES: tuple[str, ...] = tuple(family.ROUTES for family in FAMILIES)
"""Every family's routes, as `module:name`."""
