"""What one short run takes, counted: bytecodes by part, tasks, timers, and of SQLite transactions and pages.

The hour and the machine change nothing here: the table of goals explains by it what it costs. How many of the bytecodes
are different ones says how much of a processor's caches and predictions they take: where a server has slept before a
request, each is slow the first time.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import replace

from bench import process
from bench.agents import script
from bench.candidates import Candidate
from bench.harness import Bench

BEFORE, RUNS, CHUNKS = 10, 20, 2
DIFFERENT, FUNCTIONS = "different bytecodes", "functions"


def short_run(bench: Bench) -> None:
    """Runs of two events, one after another on an open connection, in a server that counts what it does."""
    runs = RUNS // 4 if bench.quick else RUNS

    def measure(candidate: Candidate) -> None:
        options = {**candidate.options, "of": candidate.module}
        with process.serving(replace(candidate, module="counted", options=options)) as server:

            def ask(count: int) -> dict[str, int]:
                requests = [bench.request(candidate, script(CHUNKS), CHUNKS) for _ in range(count)]
                if requests:
                    bench.load(server, [requests], action="sequence")
                return counted(server.port)

            ask(BEFORE)  # what the first alone has to build is not counted
            before = ask(0)
            asked = ask(0)
            after = ask(runs)
        found = {
            name: (after[name] - asked.get(name, 0) - (asked.get(name, 0) - before.get(name, 0))) / runs
            for name in after
        }
        found |= {name: after[name] for name in (DIFFERENT, FUNCTIONS)}  # of one run: the next takes the same
        bench.results.add(candidate.name, {}, **found)

    names = ("asgi", "sse-starlette", "gapless-memory", "gapless-sqlite")
    bench.alternate(bench.candidates(*names), measure)


def counted(port: int) -> dict[str, int]:
    """What the server has counted so far."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/counted")
        found: dict[str, int] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()
