"""Where the time goes: py-spy on a Gapless server under paced load, samples summed by layer."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from bench.candidates import Candidate
from bench.scenarios import Bench, MeasurementFailed, Results, Servers

STREAMS = 500
WINDOW_S = 4.0
RATE_HZ = 400
FUNCTIONS_SHOWN = 25

LAYERS = (
    ("the agent and its timer", r"bench/agents\.py|^sleep \(|^_set_result_unless_cancelled "),
    ("framework (Pydantic AI, ADK)", r"pydantic_ai/|google/|pydantic/|pydantic_graph/|opentelemetry/"),
    ("gapless: agents", r"gapless/agents/"),
    ("gapless: journals", r"gapless/journals/"),
    ("gapless: wires", r"gapless/wires/"),
    ("gapless: server", r"gapless/server/"),
    ("gapless: runner", r"gapless/"),
    ("Redis client", r"redis/"),
    ("HTTP (uvicorn, FastAPI, Starlette)", r"uvicorn/|starlette/|fastapi/|anyio/"),
    ("event loop and sockets (uvloop, kernel)", r"asyncio/|uvloop/|bench/serve\.py|threading\.py|concurrent/"),
)
"""By the innermost frame's file, first match first. Time in C counts for the Python function that called it."""


def layer_of(frame: str) -> str:
    """The layer of a py-spy frame, `function (file:line)`."""
    return next((name for name, pattern in LAYERS if re.search(pattern, frame)), "other")


def profile(candidates: list[Candidate]) -> Results:
    """Profile each candidate; the figures are µs per event, from the server's CPU clock shared out by samples."""
    with ExitStack() as stack:
        bench = Bench(quick=False, rounds=1, budget_s=120, wanted=(), servers=Servers(stack))

        def measure(candidate: Candidate) -> None:
            server = bench.server(candidate)
            n = int(50 * (WINDOW_S + 4))
            with tempfile.TemporaryDirectory(prefix="bench-") as directory:
                output = Path(directory, "samples")
                spy = subprocess.Popen(
                    [
                        *(str(Path(sys.executable).parent / "py-spy"), "record", "--pid", str(server.process.pid)),
                        *("--format", "raw", "--output", str(output), "--rate", str(RATE_HZ), "--full-filenames"),
                        *("--duration", str(int(WINDOW_S + 2)), "--subprocesses"),
                    ],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                result = bench.load(
                    server,
                    bench.paced(candidate, STREAMS if candidate.agent == "generator" else 40, n),
                    action="window",
                    settle_s=1.0,
                    window_s=WINDOW_S,
                )
                _, said = spy.communicate(timeout=30)
                if not output.exists():
                    raise MeasurementFailed(f"py-spy gave nothing: {said[-300:]}")
                layers, functions = summed(output.read_text())
            cpu_us = result["cpu_s"] / result["events"] * 1e6
            total = sum(layers.values())
            shares = {name: count / total * cpu_us for name, count in layers.most_common()}
            bench.results.add(candidate.name, {}, cpu_us=cpu_us, **shares)
            print(f"\n{candidate.name}: {cpu_us:.1f} µs per event with the profiler attached")
            for name, share in shares.items():
                print(f"  {share:6.2f} µs  {name}")
            for name, count in functions.most_common(FUNCTIONS_SHOWN):
                print(f"    {count / total * cpu_us:6.2f} µs  {name}")

        bench.alternate(candidates, measure)
        return bench.results


def summed(raw: str) -> tuple[Counter[str], Counter[str]]:
    """Samples by layer and by function, from py-spy's folded stacks."""
    layers: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frame = stack.rpartition(";")[2]
        layers[layer_of(frame)] += int(count)
        functions[re.sub(r":\d+\)$", ")", re.sub(r"\(.*?/(site-packages|src)/", "(", frame))] += int(count)
    return layers, functions
