"""Real servers are killed and stopped under runs that go on, each at a point of its own. `scripts/goes-on` runs more of
them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.goes_on.plans import CELLS, FRAMEWORKS, STORES, first_cells
from tests.goes_on.rolling import store_of
from tests.goes_on.schedules import Schedules

COUNT = int(os.environ.get("GAPLESS_GOES_ON_SCHEDULES", "0"))
"""Of all stores together; 0: the first group of each."""
SEED = int(os.environ.get("GAPLESS_GOES_ON_SEED", "1"))
ONLY = os.environ.get("GAPLESS_GOES_ON_ONLY", "")
"""One of them, as `sqlite:17`, or some, as `postgres:0-99`."""


@pytest.fixture(params=ONLY.partition(":")[:1] if ONLY else STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    if request.param == "postgres":
        yield request.param, f"{request.getfixturevalue('postgres').url}?schema={tmp_path.name}"
    else:
        with store_of(request.param, tmp_path) as url:
            yield request.param, url


@pytest.mark.timeout(1000 + COUNT)
async def test_nothing_is_done_twice_and_nothing_is_lost(store: tuple[str, str], tmp_path: Path):
    name, url = store
    first, _, last = ONLY.rpartition(":")[2].partition("-")
    count = COUNT // len(STORES) or len(first_cells(name))
    numbers = range(int(first), int(last or first) + 1) if ONLY else range(count)
    schedules = Schedules(tmp_path, url, name, numbers, seed=SEED)
    await schedules.main(told=lambda line: print(line, file=sys.stderr, flush=True))
    print(report(schedules))
    repeat = "\n".join(
        f"    scripts/goes-on --only {name}:{number} {SEED}"
        for number in sorted({int(wrong.split()[0].rstrip(":").rpartition("-")[2]) for wrong in schedules.wrong})
    )
    assert schedules.wrong == [], f"seed {SEED}; each of them alone:\n{repeat}"
    assert schedules.log_errors == []
    if not ONLY and not schedules.starved:  # a server that has lost its lease is not struck
        wanted = [(framework, *CELLS[cell]) for framework, cell in first_cells(name)]
        assert [cell for cell in wanted if not schedules.table[cell]] == [], f"{name}: nothing was struck so"


def report(schedules: Schedules) -> str:
    """How often a run of each framework was struck where."""
    lost = f"; {len(schedules.starved)} lost their lease" if schedules.starved else ""
    lines = [*schedules.wrong, *schedules.log_errors]
    lines.append(f"{schedules.name}, seed {schedules.seed}: {dict(schedules.faults)}{lost}")
    lines.append(f"{'':46}" + "".join(f"{framework:>13}" for framework in FRAMEWORKS))
    for fault, point in CELLS:
        counts = "".join(f"{schedules.table[framework, fault, point]:>13}" for framework in FRAMEWORKS)
        lines.append(f"{fault + ': ' + point:46}{counts}")
    return "\n".join(lines)
