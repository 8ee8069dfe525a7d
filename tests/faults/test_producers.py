"""Producers that are killed, a hundred times, at any byte of a batch or before its answer."""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from gapless import Runner, create_app
from gapless.events import CustomEvent, RunFinishedEvent, TextMessageContentEvent, decode_event
from gapless.testing import serving
from tests.support import preloaded
from tests.support.agui import check_order
from tests.support.waiting import HANG_S, WAIT_S

PRODUCER = Path(__file__).parents[1] / "support" / "producer.py"
DEATHS, BATCHES = 100, 320
"""On each store."""
SEED = 20261129


async def agent(message: str) -> str:
    return message


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of each store that there is."""
    if request.param == "postgres":
        return f"{request.getfixturevalue('postgres').url}?schema={tmp_path.name}"
    if request.param == "redis":
        return f"redis://127.0.0.1:{request.getfixturevalue('valkey').port}/0"
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'runs.db'}"


def killed(command: list[str]) -> int:
    return preloaded.run(command, capture_output=True, timeout=HANG_S).returncode


def test_a_producer_killed_a_hundred_times_leaves_no_hole_and_no_repeat(store: str):
    chosen = random.Random(f"{SEED} {store.partition(':')[0]}")
    with (
        serving(create_app(Runner(agent, store=store))) as url,
        httpx2.Client(base_url=url, trust_env=False, timeout=WAIT_S) as http,
    ):
        started = http.post("/runs", json={"message": "Do it.", "producer": True, "run_id": "r"})
        assert started.status_code == 202, started.text
        command = [sys.executable, str(PRODUCER), str(urlsplit(url).port), "r"]
        for death in range(DEATHS):
            at = chosen.choice(["unheard", "1000", str(chosen.randrange(1000))])
            plan = [f"p{death}", str(BATCHES), str(chosen.randrange(3)), at]
            assert killed([*command, *plan]) == -signal.SIGKILL, plan
        assert killed([*command, "the-last", str(BATCHES), "0", "end"]) == 0
        page = http.get("/runs/r/events?limit=1000", headers={"accept": "application/json"}).json()
    assert page["ended"]
    events = [decode_event(json.dumps(event)) for event in page["events"]]
    check_order(events)
    said = "".join(event.delta for event in events if isinstance(event, TextMessageContentEvent))
    assert said == "".join(f"{number}a {number}b " for number in range(1, BATCHES + 1))
    assert not [event for event in events if isinstance(event, CustomEvent)], "nothing is taken back"
    assert isinstance(events[-1], RunFinishedEvent)
