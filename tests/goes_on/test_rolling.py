"""Seconds of what `python -m tests.goes_on.rolling` does for minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.goes_on.rolling import Rolling, store_of

RUNS = 12
PAUSE_S_MAX = 60.0
"""What hangs takes longer; the machine may be busy."""


@pytest.mark.parametrize(("kind", "store", "restarts"), [("one", "sqlite", 2), ("replicas", "valkey", 1)])
async def test_followers_of_a_rolling_restart_notice_a_pause_and_nothing_else(
    kind: str, store: str, restarts: int, tmp_path: Path
):
    with store_of(store, tmp_path) as url:
        short = {"shortest_s": 0, "longest_s": 0, "tick_s": 0.1, "drain_s": 2}
        rolling = Rolling(tmp_path, kind, url, runs=RUNS, restarts=restarts, **short)
        await rolling.main()
    assert rolling.wrong == []
    assert rolling.ends == {"finished": RUNS}
    assert rolling.pause_s < PAUSE_S_MAX
