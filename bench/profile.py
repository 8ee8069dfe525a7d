"""Where the time goes: py-spy on a server under paced load, its samples summed by layer."""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from bench import process
from bench.agents import script
from bench.candidates import Candidate
from bench.harness import HZ, PACED_STREAMS, Bench, MeasurementFailed, per_event

PY_SPY = Path(sys.executable).with_name("py-spy")
RATE_HZ = 100
"""Each sample stops the server for a moment, to walk the C stack too: more of them would be a load of their own."""
FUNCTIONS_KEPT = 12
LISTED = ("gapless-memory", PACED_STREAMS["generator"])
"""Whose costliest functions are kept."""
FANOUT_FOLLOWERS = 1000
FANOUT_HZ = 20.0
STARTUP_S = 6.0
"""For the streams to fill up and for py-spy to read the symbols: the runs go on this much longer."""

AGENT = "the agent and its timer"
LAYERS = (
    (AGENT, r"bench/agents\.py|^_set_result_unless_cancelled "),
    ("its framework", r"/(pydantic_ai|google|pydantic|pydantic_graph|opentelemetry)/"),
    ("gapless: agents", r"/gapless/agents/"),
    ("gapless: journals", r"/gapless/journals/"),
    ("gapless: wires", r"/gapless/(wire\.py|protocols/\w+/\w*wire\.py)"),
    ("gapless: runner", r"/gapless/(runs/)?\w+\.py"),
    ("gapless: server", r"/gapless/(server|http|protocols)/"),
    ("the Redis client", r"/redis/"),
    ("the PostgreSQL client", r"/psycopg"),
    ("the bare app", r"bench/servers/"),
    ("the HTTP server", r"/(uvicorn|starlette|fastapi|sse_starlette)/"),
)
"""A sample counts for its innermost Python function that belongs to one of these; what that calls in the standard
library, in anyio or in C counts for it, the event loop and the kernel apart."""
LOOP = "the event loop"
KERNEL = "the kernel"
OTHER = "other"
ORDER = (*(name for name, _ in LAYERS), LOOP, KERNEL, OTHER)

SYSTEM_CALL = re.compile(r"^(__)?(write|writev|send|sendmsg|read|recv|recvmsg|epoll_p?wait|epoll_ctl)\w* \(.*libc")
UVLOOP = re.compile(r"/uvloop/|/libuv|^uv_")


def _layer(frame: str) -> str | None:
    return next((name for name, pattern in LAYERS if re.search(pattern, frame)), None)


def layer_of(stack: list[str]) -> str:
    """The layer that a sample counts for. `stack` has frames `function (file:line)`, the innermost last."""
    if SYSTEM_CALL.search(stack[-1]):
        return KERNEL
    in_loop = False
    for frame in reversed(stack):
        found = _layer(frame)
        if found:
            # Setting a timer is the agent's own cost; a write that the HTTP server asks for is the loop's.
            return LOOP if in_loop and found != AGENT else found
        in_loop = in_loop or bool(UVLOOP.search(frame))
    return LOOP if in_loop or "bench/serve.py" in stack[-1] or "/asyncio/" in stack[-1] else OTHER


def summed(raw: str) -> tuple[Counter[str], Counter[str]]:
    """Samples by layer, and by the innermost Python function that is nobody's helper, from py-spy's folded stacks."""
    layers: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in raw.splitlines():
        folded, _, count = line.rpartition(" ")
        stack = folded.split(";")
        layers[layer_of(stack)] += int(count)
        frame = next((frame for frame in reversed(stack) if _layer(frame)), stack[-1])
        functions[re.sub(r"\((.*/)?([^/]+/[^/:]+):\d+\)$", r"(\2)", frame)] += int(count)
    return layers, functions


def profile(bench: Bench) -> None:
    """µs per event by layer: the server's CPU without the profiler, shared out by the samples taken right after."""
    names = ["asgi", "gapless-memory"]
    if not bench.quick:
        names += ["gapless-sqlite", "gapless-redis", "gapless-postgres", "pydantic-ai-gapless-memory"]
        names += ["pydantic-ai-vercel", "adk-gapless-memory", "adk-server"]
    bench.rounds = 1
    bench.alternate(bench.candidates(*names), lambda candidate: _paced(bench, candidate))
    if not bench.quick:
        bench.alternate(bench.candidates("asgi", "gapless-memory"), lambda candidate: _fanout(bench, candidate))


def _seconds(bench: Bench) -> int:
    return 2 if bench.quick else 4


def _paced(bench: Bench, candidate: Candidate) -> None:
    streams = PACED_STREAMS[candidate.agent]
    n = int(HZ * (STARTUP_S + _seconds(bench)))
    _measure(bench, candidate, {"streams": streams}, [streams], bench.paced(candidate, streams, n))


def _fanout(bench: Bench, candidate: Candidate) -> None:
    n = int(FANOUT_HZ * (2 * STARTUP_S + _seconds(bench)))
    starter, follow = bench.followed(candidate, script(n, FANOUT_HZ), n)
    connections = [[starter], *[[follow]] * (FANOUT_FOLLOWERS - 1)]
    _measure(bench, candidate, {"followers": FANOUT_FOLLOWERS}, [1, FANOUT_FOLLOWERS], connections)


def _measure(
    bench: Bench,
    candidate: Candidate,
    params: dict[str, Any],
    levels: list[int],
    connections: list[list[dict[str, Any]]],
) -> None:
    """Fill up, count the CPU per event, then profile. Raises `MeasurementFailed`."""
    if not PY_SPY.exists():
        raise MeasurementFailed(f"{PY_SPY.name} is not installed beside the interpreter")
    with process.serving(candidate) as server, tempfile.TemporaryDirectory(prefix="bench-") as directory:
        samples = Path(directory, "samples")
        command = [str(PY_SPY), "record", "--pid", str(server.process.pid), "--subprocesses", "--native"]
        command += ["--format", "raw", "--full-filenames", "--output", str(samples)]
        command += ["--rate", str(RATE_HZ), "--duration", str(_seconds(bench))]
        result = bench.load(
            server,
            connections,
            action="ramp",
            levels=levels,
            settle_s=0.3,
            window_s=1.0,
            late_s=10,
            meanwhile=command,
        )
        if result["meanwhile"]["status"] or not samples.exists():
            raise MeasurementFailed(f"py-spy gave nothing: {result['meanwhile']['said'].strip()[-300:]}")
        layers, functions = summed(samples.read_text())
    figures = per_event(result["steps"][-1])
    share = figures["cpu_us"] / layers.total()
    parts = {name: count * share for name, count in layers.items()}
    bench.results.add(candidate.name, params, samples=layers.total(), **figures, **parts)
    if (candidate.name, params.get("streams")) == LISTED:
        for name, count in functions.most_common(FUNCTIONS_KEPT):
            bench.results.add(candidate.name, {**params, "function": name}, cpu_us=count * share)
