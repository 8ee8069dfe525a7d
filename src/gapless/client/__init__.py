"""Clients of a Gapless server: `GaplessClient`, `SyncClient`, and `durable_transport` for clients of other makers."""

from gapless.client.bodies import FeedChange, Page, Session
from gapless.client.client import (
    RETRYABLE_STATUSES,
    ClientLimits,
    Cut,
    GaplessClient,
    backoff_s,
)
from gapless.client.durable import durable_transport
from gapless.client.sync import SyncClient, SyncProducer
from gapless.sse import EventStreamParser, Frame

__all__ = [
    "RETRYABLE_STATUSES",
    "ClientLimits",
    "Cut",
    "EventStreamParser",
    "FeedChange",
    "Frame",
    "GaplessClient",
    "Page",
    "Session",
    "SyncClient",
    "SyncProducer",
    "backoff_s",
    "durable_transport",
]
