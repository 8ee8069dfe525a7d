"""User-space instructions per event, and the memory that they have to fetch, counted by callgrind: what another machine
or a busy neighbour does not change.

Needs valgrind and a C compiler (Debian's `valgrind` and `gcc`): without them nothing is counted, which the report says.
`python -m bench.counts PID SECONDS` counts a process under callgrind for so long.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import process
from bench.agents import script
from bench.candidates import Candidate
from bench.harness import HZ, PACED_STREAMS, Bench, MeasurementFailed
from gapless.http.stream import LASTS_S

SLOWER = 150
"""How many times as slow the counted process's clock goes (`slowly.c`)."""
SETTLE_S, WINDOW_S = 3.0, 12.0
"""Seconds of real time: of the window, some 2,000 events at 500 streams."""
WARM_S = 8.0
"""Of real time, before the window: the caches that are simulated are empty at the beginning."""
LASTING_S = 1.5 * LASTS_S
"""Seconds in the slowed time: by then Gapless carries an answer as it does from there on."""
ALONE_S = (0.02, 0.1)
"""Two windows in the slowed time: the agent alone is counted as what the longer one takes more."""
CHUNKS = 60
FOLLOWERS, FANOUT_HZ, FANOUT_CHUNKS = 200, 200.0, 600
"""Of one run; so many events a second in the slowed time, that the window has some."""
START_S = 300.0
CACHE_BYTES, LINE_BYTES = 2 * 1024 * 1024, 64
"""The cache that is simulated behind the first ones is as large as one core's own is today, and has lines of so many
bytes. What is not in it comes from one that all cores share, or from memory."""
FETCHED = ("ILmr", "DLmr", "DLmw")
"""Callgrind's names for what was not in it: instructions, and data that are read or written."""
NEEDED = ("valgrind", "vgdb", "cc")
IN = "in "
"""Before the name of a library, among the figures of a row."""
INTERPRETER = "the interpreter"
OBJECT = re.compile(r"(c?)ob=\((\d+)\) ?(.*)")
"""A name stands where its number comes first; those of calls' callees begin with a `c`."""
COST = re.compile(r"[\d+*-]")


class Counted(NamedTuple):
    """What a process was counted to do."""

    instructions: Counter[str]
    """By the library that they are in."""
    lines: int
    """Lines of memory that it fetched from behind a core's own caches."""

    def without(self, other: Counted) -> Counted:
        return Counted(self.instructions - other.instructions, self.lines - other.lines)


def missing() -> list[str]:
    return [name for name in NEEDED if shutil.which(name) is None]


def can_count() -> bool:
    return not missing()


def counts(bench: Bench) -> None:
    """Instructions per event of a paced load, in full; `goals` subtracts the agent's."""
    if not can_count():
        bench.results.skipped["all"] = f"{', '.join(missing())}: not installed"
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
            found, events = _alone(candidate, streams, under)
        else:
            found, events = _served(bench, candidate, bench.paced(candidate, streams, CHUNKS), [streams], under)
    _add(bench, candidate, {"streams": streams}, found, events)


def _fanout(bench: Bench, candidate: Candidate, library: Path) -> None:
    starter, follow = bench.followed(candidate, script(FANOUT_CHUNKS, FANOUT_HZ), FANOUT_CHUNKS)
    connections = [[starter], *[[follow]] * (FOLLOWERS - 1)]
    with _under_callgrind(library) as under:
        found, events = _served(bench, candidate, connections, [1, FOLLOWERS], under)
    _add(bench, candidate, {"followers": FOLLOWERS}, found, events)


def _add(bench: Bench, candidate: Candidate, params: dict[str, Any], found: Counted, events: float) -> None:
    each = {f"{IN}{library}": count / events for library, count in found.instructions.items()}
    instructions = found.instructions.total() / events
    bench.results.add(
        candidate.name, params, instructions=instructions, lines=found.lines / events, events=events, **each
    )


def library_of(path: str) -> str:
    """What an object file is of: a package, a module of the standard library, a library, or the interpreter."""
    package = re.search(r"site-packages/(\w+)/", path)
    module = re.search(r"/lib-dynload/(\w+)", path)
    if found := package or module:
        return found[1]
    name = Path(path).name
    return INTERPRETER if re.match(r"(lib)?python", name) else name.partition(".so")[0]


def by_library(dump: str) -> Counter[str]:
    """The instructions of a dump of callgrind, by the library that they are in: those of calls are the callee's."""
    found: Counter[str] = Counter()
    names: dict[str, str] = {}
    library, of_call = "", False
    for line in dump.splitlines():
        if named := OBJECT.match(line):
            callees, number, path = named.groups()
            name = names.setdefault(number, library_of(path))
            library = library if callees else name
        elif line.startswith("calls="):
            of_call = True
        elif COST.match(line):
            if not of_call:
                found[library] += int(line.split()[1])
            of_call = False
    return found


def lines_of(dump: str) -> int:
    """The lines that a dump of callgrind has of memory that was in none of the simulated caches."""
    events, totals = (re.search(rf"^{name}: (.+)$", dump, re.MULTILINE) for name in ("events", "totals"))
    assert events is not None, "each dump names what it has"
    assert totals is not None, "and has it"
    counted = dict(zip(events[1].split(), map(int, totals[1].split()), strict=False))
    return sum(counted.get(name, 0) for name in FETCHED)


class _Callgrind:
    """How a process is started, and what it has counted."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._out = folder / "callgrind"
        self.environment = {"LD_PRELOAD": str(library), "SLOWER": str(SLOWER)}
        caches = ["--cache-sim=yes", f"--LL={CACHE_BYTES},16,{LINE_BYTES}"]
        self.command = ["valgrind", "--tool=callgrind", *caches, f"--callgrind-out-file={self._out}", "--quiet"]

    def counted(self) -> Counted:
        """What was counted until the last dump, or the end. Raises `MeasurementFailed`."""
        dumps = [dump.read_text() for dump in sorted(self._out.parent.glob("callgrind*"))]
        found = [Counted(by_library(dump), lines_of(dump)) for dump in dumps if "\ntotals: " in dump]
        if not any(one.instructions for one in found):
            raise MeasurementFailed("callgrind has written nothing")
        return max(found, key=lambda one: one.instructions.total())


@contextmanager
def _under_callgrind(library: Path) -> Iterator[_Callgrind]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield _Callgrind(library, Path(folder))


def _served(
    bench: Bench, candidate: Candidate, connections: list[Any], levels: list[int], under: _Callgrind
) -> tuple[Counted, float]:
    command = [*under.command, "--instr-atstart=no"]
    settle_s = WARM_S + SETTLE_S + (LASTING_S * SLOWER if candidate.gapless else 0)
    with process.serving(candidate, under=command, more=under.environment, start_s=START_S) as server:
        warming = threading.Timer(settle_s - WARM_S, tell, (server.process.pid, "instrumentation", "on"))
        warming.start()
        result = bench.load(
            server,
            connections,
            action="ramp",
            levels=levels,
            settle_s=settle_s,
            window_s=0.1,
            late_s=float("inf"),
            deadline_s=START_S,
            meanwhile=[sys.executable, "-m", "bench.counts", str(server.process.pid), str(WINDOW_S)],
        )
        warming.join()
        during = result["meanwhile"]
        if during["status"]:
            raise MeasurementFailed(f"callgrind: {during['said'].strip()[-300:]}")
        return under.counted(), during["events"]


def _alone(candidate: Candidate, streams: int, under: _Callgrind) -> tuple[Counted, float]:
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
        counted.append((under.counted(), result["events"]))
    (few, few_events), (many, many_events) = counted
    return many.without(few), many_events - few_events


def tell(pid: int, *words: str) -> None:
    """Tell callgrind in a process what to do. Raises `CalledProcessError`."""
    subprocess.run(["vgdb", f"--pid={pid}", *words], check=True, capture_output=True)


def main(pid: str, seconds: str) -> None:
    """Count a process for so many seconds and have it write what it counted; callgrind is at it by now."""
    tell(int(pid), "zero")
    time.sleep(float(seconds))
    tell(int(pid), "instrumentation", "off")
    tell(int(pid), "dump")


if __name__ == "__main__":
    main(*sys.argv[1:])
