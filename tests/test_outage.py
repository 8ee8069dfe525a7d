"""Work that is tried again is in the log when it begins to fail and when it no longer does."""

from __future__ import annotations

import logging

import pytest

from gapless.errors import StoreUnavailable
from gapless.outage import Outage

log = logging.getLogger("gapless.test")


def test_an_outage_is_told_once_and_its_end(caplog: pytest.LogCaptureFixture):
    outage = Outage(log, "store x: listening anew")
    outage.over()
    for text in ("refused", "refused", "closed\nand more"):
        outage.failed(StoreUnavailable(text))
    assert outage.on
    outage.over()
    outage.over()
    outage.failed(StoreUnavailable("closed\nand more"))
    said = ["refused", "that is over, after 0.0 s", "closed"]
    assert caplog.messages == [f"store x: listening anew: {one}" for one in said]
    assert outage.on


def test_a_mistake_is_told_by_its_type_also_during_an_outage(caplog: pytest.LogCaptureFixture):
    outage = Outage(log, "reading again")
    for error in (StoreUnavailable("away"), KeyError("what Ada wrote"), KeyError("what Bob wrote")):
        outage.failed(error, known=isinstance(error, StoreUnavailable))
    assert caplog.messages == ["reading again: away", "reading again: KeyError"]
