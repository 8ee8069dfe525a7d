"""What is measured: one function per question. Each alternates between the candidates, round by round: what a goal goes
by in five rounds, and everything else in one."""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench import process, protocols
from bench.agents import CHUNK_CHARS, script
from bench.candidates import CANDIDATES, Candidate
from bench.checkpoints import AGENTS as CHECKPOINTED
from bench.counts import can_count, counts
from bench.harness import (
    FEW_STREAMS,
    HZ,
    LATE_S,
    LOW_STREAMS,
    PACED_STREAMS,
    Bench,
    MeasurementFailed,
    Results,
    Servers,
    per_event,
)
from bench.page import page
from bench.profile import profile
from bench.short_run import short_run
from bench.window import window
from gapless.protocols import WIRES

ROUNDS = 5
"""Of what a goal goes by."""
WITH_GOALS = ("pydantic-ai", "adk")
"""Frameworks whose agents over HTTP have goals."""
LIKE_WITH_LIKE_STREAMS = 10
"""Unpaced, the agents alone are measured at this many streams."""


def throughput(bench: Bench) -> None:
    """Events per second, unpaced."""
    totals = {"generator": 20_000, "pydantic-ai": 5_000, "adk": 2_500, "langgraph": 5_000, "openai-agents": 2_500}
    totals["agno"] = 2_500

    def measure(candidate: Candidate) -> None:
        # Ten streams are what the goals go by; all four levels cost more than a round may.
        for streams in [10] if bench.quick or bench.round else [1, 10, 100, 1000]:
            # LangGraph's own adapter is not done in a minute, and Durable Streams' appends are refused.
            if streams == 1000 and (candidate.agent != "generator" or candidate.name == "durable-streams"):
                continue
            n = totals[candidate.agent] // streams
            if not candidate.alone:
                connections = [[request] for request in _requests(bench, candidate, script(n), n, streams)]
                result = bench.load(bench.server(candidate), connections, action="sequence")
            elif streams == LIKE_WITH_LIKE_STREAMS:
                result = process.alone(candidate.agent, streams, 0, n, 0)
            else:
                continue
            bench.results.add(candidate.name, {"streams": streams}, **per_event(result))

    bench.alternate(
        [candidate for candidate in bench.candidates() if _chosen(bench, candidate)],
        measure,
        often=[f"{agent}-{way}" for agent in WITH_GOALS for way in ("alone", "gapless-memory")],
    )


def paced(bench: Bench) -> None:
    """CPU per event at 50 events a second per stream."""

    def measure_at(candidate: Candidate, streams: int) -> None:
        # The goals go by the generator's, and a neighbour may slow all down for a tenth of a second.
        window_s = 0.7 if bench.quick else 3.0 if candidate.agent == "generator" else 1.5
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
        figures = per_event(result)
        if not candidate.alone:
            figures |= {what: result[what] / result["events"] for what in ("writes", "wakes")}
            figures["p99_ms"] = result["p99_s"] * 1e3
        bench.results.add(candidate.name, {"streams": streams}, **figures)

    def alternate(names: Sequence[str], streams: int, often: Sequence[str] = ()) -> None:
        bench.alternate(bench.candidates(*names), lambda candidate: measure_at(candidate, streams), often=often)

    # A group for each load: what is compared is measured right after one another.
    floors = ("generator-alone", "asgi", "sse-starlette")
    own = [f"gapless-{store}" for store in ("memory", "sqlite", *(() if bench.quick else ("redis", "postgres")))]
    alternate([*floors, *own], PACED_STREAMS["generator"], often=[*floors, *own])
    alternate([*floors, *own], LOW_STREAMS, often=["asgi", "sse-starlette", "gapless-memory"])
    for agent in [agent for agent in PACED_STREAMS if agent != "generator" and not (bench.quick and agent == "agno")]:
        pair = [f"{agent}-alone", f"{agent}-gapless-memory"]
        of_agent = [candidate.name for candidate in CANDIDATES if candidate.agent == agent]
        alternate(pair if bench.quick else of_agent, PACED_STREAMS[agent], often=pair if agent in WITH_GOALS else ())
    if not bench.quick:
        alternate(["fastapi"], 200)  # its own SSE is past its limit at 500
        alternate(["durable-streams", "asgi", "gapless-memory", "gapless-sqlite"], FEW_STREAMS)
        alternate(["fastapi", "durable-streams"], LOW_STREAMS)


STREAMS_MAX = 6000
"""Where a ramp ends: far above what one process carries."""
FILL_S_MAX = 3.0
"""A server that takes longer to start a level's new streams is full."""


def ramp(bench: Bench) -> None:
    """Streams at 50 events a second until p99 lateness passes 50 ms: a coarse ramp, then fine ones around its end."""
    first = {"generator": 500 if bench.quick else 300, "pydantic-ai": 30, "adk": 30}
    window_s, settle_s = (0.7, 0.2) if bench.quick else (1.0, 0.3)
    often = () if bench.quick else ("asgi", "gapless-memory", "gapless-sqlite")
    held: dict[str, int] = {}

    def coarse(candidate: Candidate) -> None:
        found = climb(
            candidate, 100 if candidate.name == "fastapi" else first[candidate.agent], 1.8 if bench.quick else 1.3
        )
        held[candidate.name] = max(found, default=0)
        if candidate.name not in often:  # of those, the fine ones tell
            bench.results.add(candidate.name, {}, held=held[candidate.name])

    def fine(candidate: Candidate) -> None:
        # It starts a little lower: the level that held once may be beyond what holds as a rule.
        start = int(held[candidate.name] * 0.94)
        found = climb(candidate, start, 1.06)
        bench.results.add(candidate.name, {}, held=max(found, default=start * 0.94))
        held[candidate.name] = max(found, default=int(start * 0.94))

    def climb(candidate: Candidate, start: int, factor: float) -> list[int]:
        """The levels that held, from this one on."""
        levels = [level for i in range(14) if (level := int(start * factor**i)) <= STREAMS_MAX]
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
                attempts=2 if bench.quick else 3,
                fill_s=FILL_S_MAX,
            )
        for step in result["steps"]:
            figures = {"p99_ms": step["p99_s"] * 1e3, "writes": step["writes"] / step["events"], **per_event(step)}
            bench.results.add(candidate.name, {"streams": step["streams"]}, **figures)
        return [step["streams"] for step in result["steps"] if step["p99_s"] <= LATE_S]

    names = ["asgi", "gapless-memory"]
    if not bench.quick:
        names += ["gapless-sqlite", "gapless-redis", "gapless-postgres", "sse-starlette", "fastapi"]
        names += ["pydantic-ai-vercel", "pydantic-ai-ag-ui", "pydantic-ai-gapless-memory"]
        names += ["adk-server", "adk-gapless-memory"]
    bench.alternate(bench.candidates(*names), lambda _: None, coarse)
    bench.alternate(bench.candidates(*often) if often else [], fine, often=often)


def first_event(bench: Bench) -> None:
    """From the agent's first yield to the client, one run at a time."""
    often = ("asgi", "sse-starlette", "gapless-memory", "gapless-sqlite")

    def measure(candidate: Candidate) -> None:
        count = 15
        if candidate.agent == "generator":  # as above: a short run takes a thousandth of a second
            count = 60 if bench.quick or candidate.name not in often else 300
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

    chosen = [candidate for candidate in bench.candidates() if not candidate.alone and _chosen(bench, candidate)]
    bench.alternate(chosen, measure, often=often)


def fanout(bench: Bench) -> None:
    """One run, many followers, of it or of its session: CPU per event and follower."""
    hz, settle_s, window_s = 20.0, 0.3, 1.2
    levels = [1, 100] if bench.quick else [1, 100, 1000]

    def follow(candidate: Candidate, levels: list[int], *, session: bool = False) -> list[dict[str, Any]]:
        n = int(hz * (len(levels) * (settle_s + window_s) + 10))
        followed = bench.followed_session if session else functools.partial(bench.followed, candidate)
        starter, following = followed(script(n, hz), n)
        connections = [[starter], *[[following]] * (levels[-1] - 1)]
        timing = {"settle_s": settle_s, "window_s": window_s, "late_s": 10}
        return list(bench.load(bench.server(candidate), connections, action="ramp", levels=levels, **timing)["steps"])

    def measure(candidate: Candidate) -> None:
        for step in follow(candidate, [1, levels[-1]] if bench.round else levels):
            figures = {**per_event(step), "writes": step["writes"] / step["events"], "p99_ms": step["p99_s"] * 1e3}
            bench.results.add(candidate.name, {"followers": step["streams"]}, **figures)
        if candidate.name == "gapless-memory":
            step = follow(candidate, [1, levels[-1]], session=True)[-1]
            bench.results.add(candidate.name, {"followers": step["streams"]}, session_cpu_us=per_event(step)["cpu_us"])

    names = ["asgi", "gapless-memory"]
    if not bench.quick:
        names += ["gapless-sqlite", "gapless-redis", "durable-streams"]
    bench.alternate(bench.candidates(*names), measure, often=("asgi", "gapless-memory"))


def idle(bench: Bench) -> None:
    """Followers that wait: memory and CPU of each."""
    hold = script(1, 0, hold_s=60)

    def measure(candidate: Candidate) -> None:
        levels = [1, 1000] if bench.quick or bench.round else [1, 1000, 5000]
        if candidate.gapless:
            starter, follow = bench.followed(candidate, hold, 1)
            connections = [[starter], *[[follow]] * (levels[-1] - 1)]
        else:
            connections = [[request] for request in _requests(bench, candidate, hold, 1, levels[-1])]
        with process.serving(candidate) as server:
            result = bench.load(
                server,
                connections,
                action="ramp",
                levels=levels,
                settle_s=1.5,  # a store's checkpoint of what the start has written is behind it then
                window_s=2.0,
                late_s=10,
            )
        alone, *followed = result["steps"]  # the first is the run itself: it must be there before others follow it
        rates = {"cpu_us_per_s": alone["cpu_s"] * 1e6, "wakes_per_s": alone["wakes"], "writes_per_s": alone["writes"]}
        bench.results.add(candidate.name, {"runs": 1}, **{rate: of / alone["wall_s"] for rate, of in rates.items()})
        for step in followed:
            followers = step["streams"]
            bench.results.add(
                candidate.name,
                {"followers": followers},
                bytes_each=step["memory_bytes"] / followers,
                cpu_us_per_s_each=step["cpu_s"] / step["wall_s"] / followers * 1e6,
            )

    names = ["asgi", "gapless-memory"]
    if not bench.quick:
        names += ["sse-starlette", "fastapi", "gapless-sqlite", "gapless-redis"]
    bench.alternate(bench.candidates(*names), measure, often=("asgi", "gapless-memory", "gapless-sqlite"))


def join(bench: Bench) -> None:
    """A follower that comes late: what the server spends on it, and how many bytes it sends."""
    lengths = [20_000] if bench.quick else [2_000, 20_000, 50_000]
    joins = 5
    follows: dict[tuple[str, int], dict[str, Any]] = {}

    def prepare(candidate: Candidate) -> None:
        for n in lengths:
            starter, follows[candidate.name, n] = bench.followed(candidate, script(n), n, live=False)
            bench.load(bench.server(candidate), [[starter]], action="sequence")

    def measure(candidate: Candidate) -> None:
        server = bench.server(candidate)
        for n in lengths:
            more = {} if candidate.gapless else {"protocol": "durable-streams-caught-up"}
            follow = follows[candidate.name, n]
            result = bench.load(server, [[follow] * joins], action="sequence", body_only=True, **more)
            bench.results.add(
                candidate.name,
                {"events": n},
                cpu_ms=result["cpu_s"] / joins * 1e3,
                wall_ms=result["wall_s"] / joins * 1e3,
                bytes_per_text_byte=result["bytes"] / joins / (n * CHUNK_CHARS),
                frames=result["frames"] / joins,
            )

    names = ["gapless-memory", "gapless-sqlite", "gapless-redis"]
    peers = () if bench.quick else ("durable-streams",)
    bench.alternate(bench.candidates(*names, *peers), measure, prepare, often=names)


def turns(bench: Bench) -> None:
    """Short turns, one after the other, in a session that already has a history."""
    histories = [0, 200] if bench.quick else [0, 200, 1000, 4000]
    count, n = 10, 4
    sessions: dict[tuple[str, int], str] = {}

    def prepare(candidate: Candidate) -> None:
        for history in histories:
            if history <= _longest_history(candidate):
                sessions[candidate.name, history] = _session_with(bench, bench.server(candidate), history)

    def measure(candidate: Candidate) -> None:
        server = bench.server(candidate)
        for history in histories:
            if (candidate.name, history) not in sessions:
                continue
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

    names = ["gapless-memory", "gapless-sqlite"]
    if not bench.quick:
        names += ["gapless-redis", "pydantic-ai-vercel", "pydantic-ai-gapless-memory"]
        names += ["adk-server", "adk-gapless-memory"]
    bench.alternate(bench.candidates(*names), measure, prepare, often=("gapless-memory", "gapless-sqlite"))


def wires(bench: Bench) -> None:
    """Bytes of the body per 4-character chunk, on every wire."""
    n, hz = 100, 200.0 if bench.quick else 100.0
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

    names = ["asgi", "gapless-memory"]
    if not bench.quick:
        names += ["sse-starlette", "fastapi", "pydantic-ai-vercel", "pydantic-ai-ag-ui", "adk-server"]
    bench.alternate(bench.candidates(*names), measure)


def encoding(bench: Bench) -> None:
    """CPU of encoding one text delta, on every wire, for texts of several scripts."""
    loops = 500 if bench.quick else 2_000
    for name in WIRES:
        for kind, cpu_us in _printed(bench, f"wire {name}", "bench.encoding", name, loops).items():
            bench.results.add(name, {"text": kind}, cpu_us=cpu_us)


def checkpoints(bench: Bench) -> None:
    """CPU of one save, and of a step with its saves and without."""
    for name in CHECKPOINTED:
        if printed := _printed(bench, name, "bench.checkpoints", name, 2 if bench.quick else 6):
            bench.results.add(name, {}, **printed)


ADAPTERS = {"pydantic-ai": 18, "adk": 8, "langgraph": 36, "openai-agents": 12}
"""Turns in each process. Two processes of the same code differ too, so there are several of them."""


def adapters(bench: Bench) -> None:
    """What an agent of a framework costs as a run, beside itself alone: in one process, in turns, without sockets."""
    for _ in range(bench.rounds):
        for name, turns in ADAPTERS.items():
            n, turns = (400, 2) if bench.quick else (1000, turns)
            if printed := _printed(bench, name, "bench.adapters", name, n, turns):
                bench.results.add(name, {}, **printed)


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


def gaps(bench: Bench) -> None:
    """The longest gap that others see while something large is done."""

    def measure(candidate: Candidate) -> None:
        for subject, values in process.gaps(candidate.store, bench.quick).items():
            bench.results.add(candidate.name, {"while": subject}, **values)

    names = ("gapless-memory", "gapless-sqlite", "gapless-redis")
    bench.alternate(bench.candidates(*names), measure, often=names)


def elsewhere(bench: Bench) -> None:
    """How soon another process sees the events of twenty runs at 50 a second."""
    runs, events = (20, 40) if bench.quick else (20, 100)

    def measure(candidate: Candidate) -> None:
        from tests.goes_on import soon  # what the tests need is not in every environment

        with process.fresh_store(candidate.store) as store:
            late = asyncio.run(soon.measure(store, runs, events, 1 / HZ))
        at = {name: late[min(len(late) - 1, int(len(late) * part))] * 1e3 for name, part in SHARES.items()}
        bench.results.add(candidate.name, {}, **at)

    names = ("gapless-sqlite", "gapless-redis", "gapless-postgres")
    bench.alternate(bench.candidates(*names), measure, often=names)


SHARES = {"median_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}

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
        for name, code in list(IMPORTS.items())[: 4 if bench.quick else None]:
            try:
                if not done and not bench.quick:
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
    "paced": Scenario(paced, 420),
    "ramp": Scenario(ramp, 400),
    "first-event": Scenario(first_event, 60),
    "short-run": Scenario(short_run, 40),
    "fanout": Scenario(fanout, 110),
    "idle": Scenario(idle, 100),
    "join": Scenario(join, 40, 2),
    "turns": Scenario(turns, 75),
    "length": Scenario(length, 15),
    "gaps": Scenario(gaps, 340),
    "elsewhere": Scenario(elsewhere, 60),
    "wires": Scenario(wires, 15),
    "encoding": Scenario(encoding, 10),
    "adapters": Scenario(adapters, 120),
    "checkpoints": Scenario(checkpoints, 25),
    "import": Scenario(imports, 25),
    "page": Scenario(page, 30),
    "window": Scenario(window, 30),
    "profile": Scenario(profile, 80),
    "counts": Scenario(counts, 240),
}
"""Their budgets are within the 40 minutes that a run may take."""
RUN_S_MAX = 2400
NOT_QUICK = frozenset({"page", "window", "short-run", "counts"})
"""Starting a browser, or servers that count, would take a tenth of a quick run; counting instructions takes minutes."""


def chosen(quick: bool) -> list[str]:
    """What a run measures that was asked for nothing in particular."""
    without = NOT_QUICK if quick else frozenset() if can_count() else {"counts"}
    return [name for name in SCENARIOS if name not in without]


def run(name: str, quick: bool, rounds: int | None, wanted: Sequence[str], servers: Servers) -> Results:
    """Measure one scenario."""
    scenario = SCENARIOS[name]
    count = rounds or (scenario.quick_rounds if quick else ROUNDS)
    bench = Bench(quick, count, float("inf") if rounds else scenario.budget_s, wanted, servers)
    scenario.run(bench)
    return bench.results


# ------------------------------------------------------------------------------------------------------------- helpers


def _printed(bench: Bench, what: str, module: str, *arguments: object) -> dict[str, Any]:
    """What `python -m module` prints as JSON; nothing where it fails, which leaves `what` out and says why."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, env=process.environment(), cwd=process.ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        bench.results.skipped[what] = done.stderr.strip().rpartition("\n")[2]
        return {}
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def _chosen(bench: Bench, candidate: Candidate) -> bool:
    """Whether a scenario for all measures this one: a framework's agent on Redis is measured once, paced."""
    if bench.quick and (candidate.name in ("fastapi", "durable-streams") or candidate.agent == "agno"):
        return False
    stores = ("", "memory") if bench.quick else ("", "memory", "sqlite")
    return candidate.agent == "generator" or candidate.store in stores


def _requests(bench: Bench, candidate: Candidate, message: str, n: int, count: int) -> list[dict[str, Any]]:
    return [bench.request(candidate, message, n) for _ in range(count)]


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
