"""The window on what runs, in a real Chromium beside 100,000 runs: how soon is there an answer to a click?"""

from __future__ import annotations

import json
from pathlib import Path

from bench import process
from bench.agents import script
from bench.candidates import Candidate
from bench.harness import Bench, MeasurementFailed
from bench.node import install, node, ran
from bench.page import FOLDER, TESTS
from tests.support.many_runs import fill

RUNS, QUICK_RUNS = 100_000, 5_000
FAILED, RARE, USERS = 40, 7, 1_000
"""So many have failed, one of them for want of paper; so many, the oldest, are of the agent `rare`."""
FOUND = "a rare agent: found"
"""What is answered before that: how far it has looked."""
SINCE_MS = 1_700_000_000_000
MEASURE_S_MAX = 200
SERVED = {"agent": "generator", "store": "sqlite", "operator": "anonymous"}
WINDOW = Candidate("window", "the window", "generator", "gapless", "gapless_app", SERVED)


def window(bench: Bench) -> None:
    """From a click, or what is typed, to the frame in which its answer stands, by what is asked."""
    bench.results.others_known = False  # Chromium's processes end as nobody's children
    runs = QUICK_RUNS if bench.quick else RUNS

    def measure(candidate: Candidate) -> None:
        found, npm = node()
        install(FOLDER, [TESTS / "package.json", TESTS / "browser.mjs", process.ROOT / "bench" / "window.mjs"], npm)
        with process.serving(candidate) as server:
            path = Path(server.options["store"].removeprefix("sqlite:///"))
            fill(path, runs, failed=FAILED, rare=RARE, users=USERS, since_ms=SINCE_MS)
            spec = {
                "url": f"http://127.0.0.1:{server.port}/runs",
                "message": script(20),
                "times": 1 if bench.quick else 5,
            }
            for row in json.loads(ran([found, "window.mjs"], FOLDER, json.dumps(spec), MEASURE_S_MAX)):
                if row["errors"]:
                    raise MeasurementFailed(f"the window failed at {row['what']}: {row['errors'][:2]}")
                for ms in row["ms"]:
                    bench.results.add(candidate.name, {"what": row["what"], "runs": runs}, ms=ms)

    bench.rounds = 1
    bench.alternate([] if bench.wanted else [WINDOW], measure)
