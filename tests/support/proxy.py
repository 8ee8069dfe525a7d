"""The names by which tests know the cutting proxy."""

from __future__ import annotations

from gapless.testing import CutKind, Cutter

Kind = CutKind
cutting = Cutter
