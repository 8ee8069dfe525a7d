"""What every scenario uses: the servers, the rounds, the results."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
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
PACED_STREAMS = {"generator": 500, "pydantic-ai": 50, "adk": 25, "langgraph": 25, "openai-agents": 25, "agno": 50}
"""Streams of the paced load, by agent: what one process carries with every candidate."""
LOW_STREAMS = 25
"""Of the generator agent, where a process waits more than it works."""
FEW_STREAMS = 50
"""Of the generator agent, where Durable Streams is not yet late."""
DEADLINE_S = 60.0
"""Until a load client gives up."""


class MeasurementFailed(Exception):
    """The server did not answer as it should; the message says what came instead."""


FAILURES = (process.ServerFailed, MeasurementFailed, RuntimeError, OSError, subprocess.TimeoutExpired)
"""What leaves one candidate out of a scenario and lets the others go on."""


@dataclass
class Results:
    """The rounds of one scenario: `values[name]` holds one figure per round."""

    rows: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    others_known: bool = True
    """Whether what this scenario starts can be told from the machine's other processes."""

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
                "deadline_s": DEADLINE_S,
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
        self.round = 0
        self.results = Results()
        self.deadline = time.monotonic() + budget_s
        self.wanted = wanted
        self.server = servers.get
        self.load = servers.load
        self.key = servers.key

    def candidates(self, *names: str) -> list[Candidate]:
        """The named candidates (all when none is named) that were asked for."""
        found = [BY_NAME[name] for name in names] if names else CANDIDATES
        return [candidate for candidate in found if not self.wanted or candidate.name in self.wanted]

    def alternate(
        self,
        candidates: Iterable[Candidate],
        measure: Callable[[Candidate], None],
        prepare: Callable[[Candidate], None] | None = None,
        *,
        often: Collection[str] = (),
    ) -> None:
        """Call `measure` for each candidate, A B C A B C, as long as the next round fits the scenario's budget.

        `prepare` is called once for each, before the rounds. After the first round those named in `often` alone are
        measured: the goals go by them, and what else there is needs one. `measure` may do less after the first round,
        too (`self.round`), so how long the second takes is not known before; from then on the last one tells. A
        candidate that fails is left out from then on; why is part of the results. A ratio is formed within a round, so
        what is to be compared belongs into one call of this.
        """
        candidates = list(candidates)
        if prepare is not None:
            self._each(candidates, prepare)
        last_s = 0.0
        for number in range(self.rounds):
            self.round = number
            began = time.monotonic()
            if number and began + last_s > self.deadline:
                break
            if number == 1:
                candidates = [candidate for candidate in candidates if candidate.name in often]
            if not candidates:
                break
            self._each(candidates, measure)
            last_s = time.monotonic() - began if number else 0.0

    def _each(self, candidates: Iterable[Candidate], do: Callable[[Candidate], None]) -> None:
        for candidate in candidates:
            if candidate.name in self.results.skipped:
                continue
            try:
                do(candidate)
            except FAILURES as error:
                self.results.skipped[candidate.name] = str(error)
                print(f"    left out: {candidate.name}: {error}", file=sys.stderr)

    def request(self, candidate: Candidate, message: str, n: int, **more: Any) -> dict[str, Any]:
        """A request for a run of n chunks."""
        return self._asking(candidate.protocol, self.key(), message, n, **more)

    def _asking(self, protocol: str, key: str, message: str, n: int, **more: Any) -> dict[str, Any]:
        asking = {"send": protocols.start(protocol, key, message, **more), "chars": n * CHUNK_CHARS}
        if protocol == "durable-streams":  # its answer is that the stream is there
            asking["then"] = protocols.get(f"{protocols.durable_stream(key, message)}?offset=-1&live=sse")
        return asking

    def followed(
        self, candidate: Candidate, message: str, n: int, *, live: bool = True
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A request that starts a run of n chunks, and one that follows it, or where it is not `live` reads it once it
        has ended."""
        run_id = self.key()
        protocol, path = "broadcast", protocols.PROTOCOLS["broadcast"].path
        if candidate.gapless:
            protocol, path = "gapless", f"/runs/{run_id}/events"
        elif candidate.protocol == "durable-streams":
            protocol, path = candidate.protocol, protocols.durable_stream(run_id, message)
            path += "?offset=-1&live=sse" if live else "?offset=-1"
        starter = self._asking(protocol, run_id, message, n)
        return starter, {"send": protocols.get(path), "chars": starter["chars"]}

    def followed_session(self, message: str, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """A request that starts a run of n chunks in a session of Gapless, and one that follows the session."""
        key = self.key()
        starter = self._asking("gapless", key, message, n, session=key)
        return starter, {"send": protocols.get(f"/sessions/{key}/events"), "chars": starter["chars"]}

    def paced(self, candidate: Candidate, streams: int, n: int, hz: float = HZ) -> list[list[dict[str, Any]]]:
        """One connection and one paced run for each stream, their phases spread evenly."""
        return [[self.request(candidate, script(n, hz, i * GOLDEN % 1), n)] for i in range(streams)]


def per_event(result: dict[str, Any]) -> dict[str, float]:
    """The figures that every measurement has. Raises `MeasurementFailed` where nothing came."""
    if not result["events"]:
        raise MeasurementFailed("nothing came while it was counted")
    return {
        "events_per_s": result["events"] / result["wall_s"],
        "cpu_us": result["cpu_s"] / result["events"] * 1e6,
        "client_share": result.get("client_cpu_s", 0.0) / result["wall_s"],
    }
