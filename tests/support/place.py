"""Several workers on one store in memory, and the loss of one of them."""

from __future__ import annotations

from gapless.testing.place import Place

__all__ = ["Place"]
