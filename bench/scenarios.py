"""What is measured: one function per question. Each alternates between the candidates, round by round."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench import osinfo, process, protocols
from bench.agents import CHUNK_CHARS, script
from bench.alone import GOLDEN
from bench.candidates import BY_NAME, CANDIDATES, Candidate

HZ = 50.0
LATE_S = 0.050
"""p99 lateness at which a server counts as full."""


class MeasurementFailed(Exception):
    """The server did not answer as it should; the message says what came instead."""


FAILURES = (process.ServerFailed, MeasurementFailed, RuntimeError, OSError, subprocess.TimeoutExpired)
"""What leaves one candidate out of a scenario and lets the others go on."""


@dataclass
class Results:
    """The rounds of one scenario: `values[name]` holds one figure per round."""

    rows: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, candidate: str, params: dict[str, Any], **values: float) -> None:
        key = (candidate, repr(sorted(params.items())))
        row = self.rows.setdefault(key, {"candidate": candidate, "params": params, "values": {}})
        for name, value in values.items():
            row["values"].setdefault(name, []).append(value)


class Servers:
    """Servers that are started when they are first needed and run until the `stack` closes."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[str, process.Server] = {}
        self._failed: dict[str, process.ServerFailed] = {}
        self._numbers = itertools.count()

    def key(self) -> str:
        """A run or session id that no server of these has seen."""
        return f"bench-{next(self._numbers)}"

    def get(self, candidate: Candidate) -> process.Server:
        """The candidate's server. Raises `ServerFailed`."""
        name = candidate.name
        if name in self._failed:
            raise self._failed[name]
        if name not in self._running:
            try:
                self._running[name] = self._stack.enter_context(process.serving(candidate))
            except process.ServerFailed as error:
                self._failed[name] = error
                raise
        return self._running[name]

    def cpu_s(self) -> float:
        """CPU seconds of the running servers."""
        return sum(osinfo.cpu_s(pid) for server in self._running.values() for pid in server.pids)

    def load(self, server: process.Server, connections: list[list[dict[str, Any]]], **spec: Any) -> dict[str, Any]:
        """Run the load client. Raises `MeasurementFailed` when an answer was not as expected."""
        result = process.load(
            {
                "port": server.port,
                "pids": server.pids,
                "protocol": server.candidate.protocol,
                "deadline_s": 60,
                "connections": connections,
                **spec,
            }
        )
        if result["error_count"]:
            raise MeasurementFailed(f"{result['error_count']} answers were wrong: {result['errors'][:2]}")
        return result


class Bench:
    """One scenario's run: its servers, its rounds, its results."""

    def __init__(self, quick: bool, rounds: int, budget_s: float, wanted: Sequence[str], servers: Servers) -> None:
        self.quick = quick
        self.rounds = rounds
        self.results = Results()
        self.deadline = time.monotonic() + budget_s
        self.wanted = wanted
        self.server = servers.get
        self.load = servers.load
        self.key = servers.key

    # ------------------------------------------------------------------------------------------------- candidates

    def candidates(self, *names: str) -> list[Candidate]:
        """The named candidates (all when none is named) that were asked for."""
        found = [BY_NAME[name] for name in names] if names else CANDIDATES
        return [candidate for candidate in found if not self.wanted or candidate.name in self.wanted]

    def alternate(self, candidates: Iterable[Candidate], measure: Callable[[Candidate], None]) -> None:
        """Call `measure` for each candidate, round by round, as long as the next round fits the scenario's budget.

        A candidate that fails is left out from then on; why is part of the results.
        """
        candidates = list(candidates)
        last_s = 0.0
        for done in range(self.rounds):
            began = time.monotonic()
            if done and began + last_s > self.deadline:
                break
            for candidate in candidates:
                if candidate.name in self.results.skipped:
                    continue
                try:
                    measure(candidate)
                except FAILURES as error:
                    self.results.skipped[candidate.name] = str(error)
                    print(f"    left out: {candidate.name}: {error}", file=sys.stderr)
            last_s = time.monotonic() - began

    # ------------------------------------------------------------------------------------------------ requests

    def request(self, candidate: Candidate, message: str, n: int, **more: Any) -> dict[str, Any]:
        """A request for a run of n chunks."""
        return {"send": protocols.start(candidate.protocol, self.key(), message, **more), "chars": n * CHUNK_CHARS}

    def paced(self, candidate: Candidate, streams: int, n: int, hz: float = HZ) -> list[list[dict[str, Any]]]:
        """One connection and one paced run for each stream, their phases spread evenly."""
        return [[self.request(candidate, script(n, hz, i * GOLDEN % 1), n)] for i in range(streams)]


def per_event(result: dict[str, Any]) -> dict[str, float]:
    """The figures that every measurement has."""
    return {
        "events_per_s": result["events"] / result["wall_s"],
        "cpu_us": result["cpu_s"] / result["events"] * 1e6,
        "client_share": result.get("client_cpu_s", 0.0) / result["wall_s"],
    }


# ------------------------------------------------------------------------------------------------------- the questions


def throughput(bench: Bench) -> None:
    """Events per second, unpaced."""
    totals = {"generator": 20_000, "pydantic-ai": 5_000, "adk": 2_500}
    few = {"generator": 20, "pydantic-ai": 8, "adk": 4}
    levels = [1, 100] if bench.quick else [1, 10, 100, 1000]

    def measure(candidate: Candidate) -> None:
        for streams in levels:
            if streams == 1000 and candidate.agent != "generator" and candidate.store == "sqlite":
                continue
            n = max(totals[candidate.agent] // streams, few[candidate.agent])
            connections = [[request] for request in _requests(bench, candidate, script(n), n, streams)]
            result = bench.load(bench.server(candidate), connections, action="sequence")
            bench.results.add(candidate.name, {"streams": streams}, **per_event(result))

    bench.alternate([c for c in bench.candidates() if not c.alone and _chosen(bench, c)], measure)


def paced(bench: Bench) -> None:
    """CPU per event at 50 events a second per stream."""
    streams_of = {"generator": 500, "pydantic-ai": 50, "adk": 25}
    window_s = 1.0 if bench.quick else 1.5

    def measure(candidate: Candidate) -> None:
        # FastAPI's own SSE is past its limit at 500.
        streams = 200 if candidate.name == "fastapi" else streams_of[candidate.agent]
        fill_s = 1.2 if candidate.agent == "generator" else 0.7
        n = int(HZ * (fill_s + 0.3 + window_s))
        if candidate.alone:
            result = process.alone(candidate.agent, streams, HZ, n, window_s)
        else:
            connections = bench.paced(candidate, streams, n)
            result = bench.load(
                bench.server(candidate),
                connections,
                action="window",
                settle_s=0.3,
                window_s=window_s,
                to_the_end=True,
            )
        late = {"p99_ms": result["p99_s"] * 1e3} if "p99_s" in result else {}
        bench.results.add(candidate.name, {"streams": streams}, **per_event(result), **late)

    framework_stores = ("", "memory") if bench.quick else ("", "memory", "sqlite", "redis")
    others = ("sse-starlette", "fastapi") if bench.quick else ()
    bench.alternate(
        [
            candidate
            for candidate in bench.candidates()
            if candidate.name not in others and (candidate.agent == "generator" or candidate.store in framework_stores)
        ],
        measure,
    )


def ramp(bench: Bench) -> None:
    """Streams at 50 events a second until p99 lateness passes 50 ms: a coarse ramp, then fine ones around its end."""
    first = {"generator": 500 if bench.quick else 200, "pydantic-ai": 20, "adk": 20}
    window_s, settle_s = (0.7, 0.2) if bench.quick else (1.0, 0.3)
    held: dict[str, int] = {}

    def measure(candidate: Candidate) -> None:
        coarse = 1.8 if bench.quick else 1.3
        start, factor = (held[candidate.name], 1.06) if candidate.name in held else (first[candidate.agent], coarse)
        levels = [int(start * factor**i) for i in range(14)]
        n = int(HZ * (len(levels) * (window_s + settle_s) + 10))
        with process.serving(candidate) as server:
            result = bench.load(
                server,
                bench.paced(candidate, levels[-1], n),
                action="ramp",
                levels=levels,
                settle_s=settle_s,
                window_s=window_s,
                late_s=LATE_S,
            )
        steps = result["steps"]
        for step in steps:
            figures = per_event(step)
            bench.results.add(candidate.name, {"streams": step["streams"]}, p99_ms=step["p99_s"] * 1e3, **figures)
        good = [step["streams"] for step in steps if step["p99_s"] <= LATE_S]
        if good or candidate.name not in held:
            bench.results.add(candidate.name, {}, held=max(good, default=0))
        # The next round starts a little lower: the level that held once may be beyond what holds as a rule.
        held[candidate.name] = int(max(good, default=start * 0.85) * 0.94)

    names = ["asgi", "gapless-memory", "gapless-sqlite", "gapless-redis"]
    if not bench.quick:
        names += ["sse-starlette", "fastapi", "pydantic-ai-vercel", "pydantic-ai-ag-ui", "pydantic-ai-gapless-memory"]
        names += ["adk-server", "adk-gapless-memory"]
    bench.alternate(bench.candidates(*names), measure)


def first_event(bench: Bench) -> None:
    """From the agent's first yield to the client, one run at a time."""

    def measure(candidate: Candidate) -> None:
        count = 100 if candidate.agent == "generator" else 30
        requests = _requests(bench, candidate, script(2), 2, count)
        result = bench.load(bench.server(candidate), [requests], action="sequence")
        first = result["first"]
        bench.results.add(
            candidate.name,
            {},
            yield_ms=first["late_p50_s"] * 1e3,
            yield_p99_ms=first["late_p99_s"] * 1e3,
            request_ms=first["median_s"] * 1e3,
            run_cpu_us=result["cpu_s"] / count * 1e6,
        )

    bench.alternate([c for c in bench.candidates() if not c.alone and _chosen(bench, c)], measure)


def fanout(bench: Bench) -> None:
    """One run, many followers: CPU per event and follower."""
    levels = [1, 100] if bench.quick else [1, 100, 1000]
    hz, settle_s, window_s = 20.0, 0.3, 1.2
    n = int(hz * (len(levels) * (settle_s + window_s) + 4))

    def measure(candidate: Candidate) -> None:
        starter = bench.request(candidate, script(n, hz), n)
        if candidate.gapless:
            path = f"/runs/{_run_id(starter)}/events"
        else:
            path = protocols.PROTOCOLS["broadcast"].path
            starter = {"send": protocols.start("broadcast", "", script(n, hz)), "chars": n * CHUNK_CHARS}
        follow = {"send": protocols.get(path), "chars": n * CHUNK_CHARS}
        connections = [[starter], *[[follow]] * (levels[-1] - 1)]
        result = bench.load(
            bench.server(candidate),
            connections,
            action="ramp",
            levels=levels,
            settle_s=settle_s,
            window_s=window_s,
            late_s=10,
        )
        for step in result["steps"]:
            figures = per_event(step)
            bench.results.add(candidate.name, {"followers": step["streams"]}, p99_ms=step["p99_s"] * 1e3, **figures)

    bench.alternate(bench.candidates("asgi", "gapless-memory", "gapless-sqlite", "gapless-redis"), measure)


def idle(bench: Bench) -> None:
    """Followers that wait: memory and CPU of each."""
    levels = [1, 1000] if bench.quick else [1, 1000, 5000]
    hold = script(1, 0, hold_s=60)

    def measure(candidate: Candidate) -> None:
        if candidate.gapless:
            starter = bench.request(candidate, hold, 1)
            follow = {"send": protocols.get(f"/runs/{_run_id(starter)}/events"), "chars": CHUNK_CHARS}
            connections = [[starter], *[[follow]] * (levels[-1] - 1)]
        else:
            connections = [[request] for request in _requests(bench, candidate, hold, 1, levels[-1])]
        with process.serving(candidate) as server:
            result = bench.load(
                server,
                connections,
                action="ramp",
                levels=levels,
                settle_s=0.3,
                window_s=1.0,
                late_s=10,
            )
        for step in result["steps"][1:]:  # the first is the run itself: it must be there before others follow it
            followers = step["streams"]
            bench.results.add(
                candidate.name,
                {"followers": followers},
                bytes_each=step["memory_bytes"] / followers,
                cpu_us_per_s_each=step["cpu_s"] / step["wall_s"] / followers * 1e6,
            )

    names = ["asgi", "sse-starlette", "fastapi", "gapless-memory", "gapless-sqlite", "gapless-redis"]
    bench.alternate(bench.candidates(*names), measure)


def join(bench: Bench) -> None:
    """A follower that comes late: what the server spends on it, and how many bytes it sends."""
    lengths = [20_000] if bench.quick else [2_000, 20_000, 50_000]
    joins = 5
    runs: dict[tuple[str, int], str] = {}

    def measure(candidate: Candidate) -> None:
        server = bench.server(candidate)
        for n in lengths:
            if (candidate.name, n) not in runs:
                request = bench.request(candidate, script(n), n)
                bench.load(server, [[request]], action="sequence")
                runs[candidate.name, n] = _run_id(request)
            follow = {"send": protocols.get(f"/runs/{runs[candidate.name, n]}/events"), "chars": n * CHUNK_CHARS}
            result = bench.load(server, [[follow] * joins], action="sequence", body_only=True)
            bench.results.add(
                candidate.name,
                {"events": n},
                cpu_ms=result["cpu_s"] / joins * 1e3,
                wall_ms=result["wall_s"] / joins * 1e3,
                bytes_per_text_byte=result["bytes"] / joins / (n * CHUNK_CHARS),
                frames=result["frames"] / joins,
            )

    bench.alternate(bench.candidates("gapless-memory", "gapless-sqlite", "gapless-redis"), measure)


def turns(bench: Bench) -> None:
    """Short turns, one after the other, in a session that already has a history."""
    histories = [0, 1000] if bench.quick else [0, 200, 1000, 4000]
    count, n = 10, 4
    sessions: dict[tuple[str, int], str] = {}

    def measure(candidate: Candidate) -> None:
        server = bench.server(candidate)
        for history in histories:
            if history > _longest_history(candidate):
                continue
            if (candidate.name, history) not in sessions:
                sessions[candidate.name, history] = _session_with(bench, server, history)
            more = {"session": sessions[candidate.name, history]}
            carried = {} if candidate.gapless or candidate.agent == "adk" else {"history": history}
            requests = [bench.request(candidate, script(n), n, **more, **carried) for _ in range(count)]
            result = bench.load(server, [requests], action="sequence")
            bench.results.add(
                candidate.name,
                {"history": history},
                turns_per_s=count / result["wall_s"],
                cpu_ms=result["cpu_s"] / count * 1e3,
                first_ms=result["first"]["median_s"] * 1e3,
            )

    names = ["gapless-memory", "gapless-sqlite", "gapless-redis", "pydantic-ai-vercel", "pydantic-ai-gapless-memory"]
    bench.alternate(bench.candidates(*names, "adk-server", "adk-gapless-memory"), measure)


def wires(bench: Bench) -> None:
    """Bytes of the body per 4-character chunk, on every wire."""
    n, hz = 100, 100.0
    bench.rounds = 1

    def measure(candidate: Candidate) -> None:
        server = bench.server(candidate)
        if not candidate.gapless:
            request = bench.request(candidate, script(n, hz), n)
            result = bench.load(server, [[request]], action="sequence", body_only=True)
            bench.results.add(candidate.name, {}, bytes_per_event=result["bytes"] / n)
            return
        for wire in ("ag-ui", "vercel", "openai", "adk", "text"):
            run_id = bench.key()
            _post_json(server.port, "/runs", {"message": script(n, hz), "run_id": run_id})
            follow = {"send": protocols.get(f"/runs/{run_id}/events?wire={wire}"), "chars": None}
            text = protocols.ADK_PARTIAL if wire == "adk" else protocols.BASE64_TEXT
            try:
                result = bench.load(server, [[follow]], action="sequence", body_only=True, text=text.decode())
            except MeasurementFailed as error:
                bench.results.skipped[f"{candidate.name}, wire {wire}"] = str(error)
                continue
            bench.results.add(candidate.name, {"wire": wire}, bytes_per_event=result["bytes"] / n)

    names = [
        "asgi",
        "sse-starlette",
        "fastapi",
        "gapless-memory",
        "pydantic-ai-vercel",
        "pydantic-ai-ag-ui",
        "adk-server",
    ]
    bench.alternate(bench.candidates(*names), measure)


def length(bench: Bench) -> None:
    """CPU per event in short and long runs: it must not grow."""
    total = 10_000 if bench.quick else 50_000
    lengths = [500, 10_000] if bench.quick else [500, 5_000, 50_000]

    def measure(candidate: Candidate) -> None:
        for n in lengths:
            requests = _requests(bench, candidate, script(n), n, total // n)
            result = bench.load(bench.server(candidate), [requests], action="sequence")
            bench.results.add(candidate.name, {"events": n}, **per_event(result))

    bench.alternate(bench.candidates("asgi", "gapless-memory", "gapless-sqlite", "gapless-redis"), measure)


IMPORTS = {
    "import gapless": "import gapless",
    "its Runner": "from gapless import Runner",
    "Gapless's server": "import gapless.server",
    "FastAPI": "import fastapi",
    "Pydantic AI": "import pydantic_ai",
    "Pydantic AI, both adapters": "import pydantic_ai.ui.ag_ui, pydantic_ai.ui.vercel_ai",
    "ADK runner and agent": "from google.adk.runners import Runner; from google.adk.agents import LlmAgent",
    "ADK's web app": "import google.adk.cli.fast_api",
}
FRAMEWORKS = (
    "fastapi", "starlette", "uvicorn", "pydantic", "google.adk", "pydantic_ai", "redis", "xllamacpp", "rich", "typer",
    "httpx", "httpx2", "sqlite3", "openai",
)  # fmt: skip


def imports(bench: Bench) -> None:
    """Import time in a fresh process, the bare interpreter subtracted."""

    def seconds(code: str) -> tuple[float, float]:
        """Wall and CPU seconds of `python -c code`. Raises `MeasurementFailed`."""
        began = time.monotonic()
        child = subprocess.Popen([sys.executable, "-c", code], env=process.environment(), stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise MeasurementFailed(f"{code!r} fails")
        return wall_s, usage.ru_utime + usage.ru_stime

    for done in range(bench.rounds):
        bare_wall_s, bare_cpu_s = seconds("pass")
        for name, code in IMPORTS.items():
            try:
                if not done:
                    seconds(code)  # compiles the bytecode
                wall_s, cpu_s = seconds(code)
            except MeasurementFailed as error:
                bench.results.skipped[name] = str(error)
                continue
            figures = {"wall_ms": (wall_s - bare_wall_s) * 1e3, "cpu_ms": (cpu_s - bare_cpu_s) * 1e3}
            bench.results.add(name, {}, **figures)
    code = f"import gapless, sys; print([m for m in {FRAMEWORKS!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], env=process.environment(), capture_output=True, text=True, check=False
    )
    bench.results.add("import gapless", {"imports": found.stdout.strip()})


@dataclass(frozen=True)
class Scenario:
    run: Callable[[Bench], None]
    budget_s: float
    """No new round is begun when, as long as the last one, it would end after this."""
    quick_rounds: int = 1


SCENARIOS = {
    "throughput": Scenario(throughput, 150),
    "paced": Scenario(paced, 200),
    "ramp": Scenario(ramp, 240),
    "first-event": Scenario(first_event, 30),
    "fanout": Scenario(fanout, 70),
    "idle": Scenario(idle, 60),
    "join": Scenario(join, 25, 2),
    "turns": Scenario(turns, 60),
    "length": Scenario(length, 40),
    "wires": Scenario(wires, 15),
    "import": Scenario(imports, 25),
}


def run(name: str, quick: bool, rounds: int | None, wanted: Sequence[str], servers: Servers) -> Results:
    """Measure one scenario."""
    scenario = SCENARIOS[name]
    count = rounds or (scenario.quick_rounds if quick else 5)
    bench = Bench(quick, count, float("inf") if rounds else scenario.budget_s, wanted, servers)
    scenario.run(bench)
    return bench.results


# ------------------------------------------------------------------------------------------------------------- helpers


def _chosen(bench: Bench, candidate: Candidate) -> bool:
    """Whether a scenario for all measures this one: a framework's agent on Redis is measured once, paced."""
    return candidate.agent == "generator" or candidate.store in (
        ("", "memory") if bench.quick else ("", "memory", "sqlite")
    )


def _requests(bench: Bench, candidate: Candidate, message: str, n: int, count: int) -> list[dict[str, Any]]:
    return [bench.request(candidate, message, n) for _ in range(count)]


def _run_id(request: dict[str, Any]) -> str:
    """The run id that a Gapless request names."""
    return str(json.loads(request["send"].partition("\r\n\r\n")[2])["run_id"])


def _longest_history(candidate: Candidate) -> int:
    """How much history to prepare: under a framework each turn of it costs a turn of the framework."""
    if candidate.gapless and candidate.agent != "generator":
        return 200 if candidate.agent == "adk" else 1000
    return 4000


def _session_with(bench: Bench, server: process.Server, history: int) -> str:
    """A session of `history` messages: half of them asked, half answered."""
    session = bench.key()
    if server.candidate.gapless:
        requests = [bench.request(server.candidate, script(1), 1, session=session) for _ in range(history // 2)]
        if requests:
            bench.load(server, [requests], action="sequence")
    elif server.candidate.agent == "adk":
        authors = [("user", "user"), ("scripted", "model")]
        events = [
            {"author": author, "content": {"role": role, "parts": [{"text": f"m{i}"}]}}
            for i, (author, role) in enumerate(authors * (history // 2))
        ]
        _post_json(server.port, "/apps/scripted/users/u/sessions", {"sessionId": session, "events": events})
    return session


def _post_json(port: int, path: str, body: Any) -> None:
    """Raises `MeasurementFailed` for an answer outside 200–299."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        said = response.read(300).decode(errors="replace")
    finally:
        connection.close()
    if not 200 <= response.status < 300:
        raise MeasurementFailed(f"POST {path} answered {response.status}: {said}")
