"""User-space instructions per event, counted by callgrind: what another machine or a busy neighbour does not change.

Needs valgrind and a C compiler (Debian's `valgrind` and `gcc`): without them nothing is counted, which the report says.
`python -m bench.counts PID SECONDS` counts a process under callgrind for so long.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import process
from bench.agents import script
from bench.candidates import Candidate
from bench.harness import HZ, PACED_STREAMS, Bench, MeasurementFailed

SLOWER = 150
"""How many times as slow the counted process's clock goes (`slowly.c`)."""
SETTLE_S, WINDOW_S = 3.0, 12.0
"""Seconds of real time: of the window, some 2,000 events at 500 streams."""
ALONE_S = (0.02, 0.1)
"""Two windows in the slowed time: the agent alone is counted as what the longer one takes more."""
CHUNKS = 60
FOLLOWERS, FANOUT_HZ, FANOUT_CHUNKS = 200, 200.0, 600
"""Of one run; so many events a second in the slowed time, that the window has some."""
START_S = 300.0
NEEDED = ("valgrind", "vgdb", "cc")


def counts(bench: Bench) -> None:
    """Instructions per event of a paced load, in full; `goals` subtracts the agent's."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        bench.results.skipped["all"] = f"{', '.join(missing)}: not installed"
        return
    bench.rounds = 1
    names = ["generator-alone", "asgi", "gapless-memory"]
    if not bench.quick:
        names += ["gapless-sqlite", "gapless-redis", "sse-starlette"]
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        library = Path(directory, "slowly.so")
        source = Path(__file__).with_name("slowly.c")
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True)
        bench.alternate(bench.candidates(*names), lambda candidate: _paced(bench, candidate, library))
        bench.alternate(
            bench.candidates("asgi", "gapless-memory"), lambda candidate: _fanout(bench, candidate, library)
        )


def _paced(bench: Bench, candidate: Candidate, library: Path) -> None:
    streams = PACED_STREAMS[candidate.agent]
    with _under_callgrind(library) as under:
        if candidate.alone:
            instructions, events = _alone(candidate, streams, under)
        else:
            instructions, events = _served(bench, candidate, bench.paced(candidate, streams, CHUNKS), [streams], under)
    bench.results.add(candidate.name, {"streams": streams}, instructions=instructions / events, events=events)


def _fanout(bench: Bench, candidate: Candidate, library: Path) -> None:
    starter, follow = bench.followed(candidate, script(FANOUT_CHUNKS, FANOUT_HZ), FANOUT_CHUNKS)
    connections = [[starter], *[[follow]] * (FOLLOWERS - 1)]
    with _under_callgrind(library) as under:
        instructions, events = _served(bench, candidate, connections, [1, FOLLOWERS], under)
    bench.results.add(candidate.name, {"followers": FOLLOWERS}, instructions=instructions / events, events=events)


class _Callgrind:
    """How a process is started, and what it has counted."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._out = folder / "callgrind"
        self.environment = {"LD_PRELOAD": str(library), "SLOWER": str(SLOWER)}
        self.command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self._out}", "--quiet"]

    @property
    def instructions(self) -> int:
        """All that was counted until the last dump, or the end. Raises `MeasurementFailed`."""
        dumps = sorted(self._out.parent.glob("callgrind*"))
        found = [int(n) for dump in dumps for n in re.findall(r"^(?:summary|totals): (\d+)", dump.read_text(), re.M)]
        if not found:
            raise MeasurementFailed("callgrind has written nothing")
        return max(found)


@contextmanager
def _under_callgrind(library: Path) -> Iterator[_Callgrind]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield _Callgrind(library, Path(folder))


def _served(
    bench: Bench, candidate: Candidate, connections: list[Any], levels: list[int], under: _Callgrind
) -> tuple[float, float]:
    command = [*under.command, "--instr-atstart=no"]
    with process.serving(candidate, under=command, more=under.environment, start_s=START_S) as server:
        result = bench.load(
            server,
            connections,
            action="ramp",
            levels=levels,
            settle_s=SETTLE_S,
            window_s=0.1,
            late_s=float("inf"),
            deadline_s=START_S,
            meanwhile=[sys.executable, "-m", "bench.counts", str(server.process.pid), str(WINDOW_S)],
        )
        during = result["meanwhile"]
        if during["status"]:
            raise MeasurementFailed(f"callgrind: {during['said'].strip()[-300:]}")
        return under.instructions, during["events"]


def _alone(candidate: Candidate, streams: int, under: _Callgrind) -> tuple[float, float]:
    counted = []
    for window_s in ALONE_S:
        result = process.alone(
            candidate.agent,
            streams,
            HZ,
            CHUNKS,
            window_s,
            settle_s=ALONE_S[0],
            under=under.command,
            more=under.environment,
        )
        counted.append((under.instructions, result["events"]))
    (few, few_events), (many, many_events) = counted
    return many - few, many_events - few_events


def main(pid: str, seconds: str) -> None:
    """Count a process for so many seconds and have it write what it counted."""

    def tell(*words: str) -> None:
        subprocess.run(["vgdb", f"--pid={pid}", *words], check=True, stdout=subprocess.DEVNULL)

    tell("instrumentation", "on")
    time.sleep(float(seconds))
    tell("instrumentation", "off")
    tell("dump")


if __name__ == "__main__":
    main(*sys.argv[1:])
