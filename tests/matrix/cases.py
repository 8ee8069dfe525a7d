"""What the matrix's clients in Python share."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

from gapless.client import ClientLimits
from tests.matrix.agent import CASES

GIVEN = json.loads(os.environ["GAPLESS_TEST"])
URLS: dict[str, str] = GIVEN["urls"]
BASE = URLS["none"]
MODEL = "agent"
QUICK = ClientLimits(retry_first_s=0.001, retry_max_s=0.005)
AT_ONCE = 6
WAIT_S = 30.0
"""After that a client that never asked, or a run that never waits, has failed."""
RESULTS = {"own": "Zürich", "own_failed": "no position"}
"""What a client's own tool says, or fails with."""
Told = dict[str, Any]


class Case:
    """One case of one client behind one kind of cut."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.client, self.cut, self.kind = name.split(".")
        self.url = URLS[self.cut]
        self.message = f"{self.kind} {name}"

    @property
    def is_own(self) -> bool:
        return self.kind in RESULTS

    def run(self) -> str:
        """The newest run of the case."""
        deadline = time.monotonic() + WAIT_S
        while not (runs := httpx2.get(f"{BASE}/asked", params={"message": self.message}).json()):
            assert time.monotonic() < deadline, "nothing was asked"
            time.sleep(0.01)
        return str(runs[-1])

    def cancel(self) -> None:
        httpx2.post(f"{BASE}/runs/{self.run()}/cancel").raise_for_status()

    def answer(self) -> None:
        """Say yes to what the run asks, once it does."""
        run = self.run()
        deadline = time.monotonic() + WAIT_S
        while httpx2.get(f"{BASE}/runs/{run}").json()["status"] != "waiting":
            assert time.monotonic() < deadline, "nothing is asked of a person"
            time.sleep(0.02)
        page = httpx2.get(f"{BASE}/runs/{run}/events?limit=1000", headers={"accept": "application/json"}).json()
        asked = page["events"][-1]["outcome"]["interrupts"]
        yes = [{"interruptId": one["id"], "status": "resolved", "payload": {"approved": True}} for one in asked]
        httpx2.post(f"{BASE}/runs/{run}/input", json={"resume": yes}).raise_for_status()


def run_all(clients: Sequence[str], tell: Callable[[Case], Told], cases: Sequence[str] = tuple(CASES)) -> None:
    """Run the cases of the clients that are wanted, and report what `tell` says of each, or how it failed."""

    def told(name: str) -> Told:
        try:
            return tell(Case(name))
        except Exception as error:
            return {"failed": f"{type(error).__name__}: {error}"}

    only = GIVEN["only"]
    names = [
        f"{client}.{cut}.{kind}"
        for client in clients
        for cut in URLS
        for kind in cases
        if client in (only["clients"] or clients) and kind in (only["cases"] or cases)
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = dict(zip(names, pool.map(told, names), strict=True))
    Path(GIVEN["report"]).write_text(json.dumps({"results": results}))
