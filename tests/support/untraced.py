"""FastAPI traces what a process serves once anything in it has set OpenTelemetry up, and what one test uses (ADK's own
server does so) is set up for all that come after it. So here it traces where a test says so."""

from __future__ import annotations

import pytest
from fastapi.telemetry._asgi import NativeTelemetry

__all__ = ["by_default", "traced"]

_enabled = NativeTelemetry.enabled


def by_default() -> None:
    """Have FastAPI trace nothing in this process."""
    pytest.MonkeyPatch().setattr(NativeTelemetry, "enabled", lambda self: False)


def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it trace as it does, until `monkeypatch` is undone."""
    monkeypatch.setattr(NativeTelemetry, "enabled", _enabled)
