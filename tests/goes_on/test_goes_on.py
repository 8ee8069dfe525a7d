"""Real servers are killed and stopped in the middle of runs that go on. `scripts/goes-on` runs more of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.goes_on.schedules import Schedules
from tests.support.valkey import Valkey

COUNT = int(os.environ.get("GAPLESS_GOES_ON_SCHEDULES", "200"))
SEED = int(os.environ.get("GAPLESS_GOES_ON_SEED", "1"))


@pytest.fixture(params=["sqlite", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'gapless.db'}"
        return
    with Valkey() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.mark.timeout(900 + COUNT)
async def test_nothing_is_done_twice_and_nothing_is_lost(store: str, tmp_path: Path):
    schedules = Schedules(tmp_path, store, COUNT // 2, seed=SEED)
    await schedules.main()
    print(f"{schedules.steps} steps, {schedules.repeated} of them begun again in flight; {dict(schedules.faults)}")
    assert schedules.wrong == []
