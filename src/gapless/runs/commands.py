"""Commands: what one worker asks of the worker that owns a run, or tells it."""

from __future__ import annotations

import msgspec

from gapless.events import ResumeEntry
from gapless.live import LiveRequest

__all__ = ["Command", "decode_command"]


class Command(msgspec.Struct, omit_defaults=True):
    """What one worker asks of a run's owner, or tells it."""

    kind: str
    """`cancel`, `input`, `live` or `followers`."""
    resume: list[ResumeEntry] = []
    said: LiveRequest | None = None
    worker_id: str = ""
    followers: int = 0
    """How many follow the run at that worker now."""
    number: int = 0
    """Counts the reports of that worker: one that comes late is out of date."""


decode_command = msgspec.json.Decoder(Command).decode
