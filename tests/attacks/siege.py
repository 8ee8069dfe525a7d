"""A server under attack: its processes, how much load is put on it, what is counted, and the verdict."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import random
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.attacks import served
from tests.attacks.connection import Connection, NoAnswer, cpu_s, parent_of, request, rss_bytes
from tests.support.processes import Server

CPU_SHARE_MAX = 0.5
"""Of one processor, for the servers and who attacks them together: an attack may run beside other work."""
WORKERS = 3
KILL_EVERY_S = 45.0
LOOK_EVERY_S = 1.0
MEASURE_EVERY_S = 5.0
GROWTH_MAX = 0.10
"""Of a server process's memory, from when it is warm to the end."""
WARM_SHARE = 0.25
"""Of the time, until a process is taken for warm: it has met every route, wire and store statement by then."""
MEASURED_S_MIN = 600.0
"""In less, what is warm is not told from what grows, and memory is reported without being judged."""
FAULTS_KEPT_MAX = 200
KILL_FELT_S = 3.0
"""How long before and after a kill a connection may be without an answer: those of the killed worker are reset."""
END_S_MAX = 15.0
"""For what is under way when the time is up."""
ASK_ATTEMPTS_MAX = 12
OVERLOAD = frozenset({503, 507})
"""What a server says that is stopping, or whose store is away or full."""
RUN_CODES = frozenset(
    {"agent_failed", "run_timeout", "answer_timeout", "worker_lost", "run_limit", "run_cancelled", "usage"}
)
"""In the answer of a route that waits for the run's end: how that run has ended, and no fault of the server. `usage`
is of the agent `live`, asked where nobody can speak to it."""
KEYS = {"alice": "alice-" + "k" * 20, "mallory": "mallory-" + "k" * 20}
GONE = "a process is gone that nobody has killed"
WORKER_END = re.compile(r"worker process (\d+) ")
"""How the supervisor's line begins that says how one has ended."""
CANARY = "canary-of-alice"
"""In all that Alice asks; Mallory is never shown it."""


@dataclass
class Tally:
    """What has been done and what came of it."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)
    fault_count: int = 0

    def fault(self, kind: str, **details: Any) -> None:
        """Note what must not be."""
        self.fault_count += 1
        self.counts[f"fault: {kind}"] += 1
        print(f"FAULT {kind} {str(details)[:1000]}", flush=True)
        if len(self.faults) < FAULTS_KEPT_MAX:
            self.faults.append({"kind": kind, "at": time.strftime("%H:%M:%S"), **details})


class Pace:
    """Holds attackers back so far that they and the servers together use no more than their share of a processor."""

    def __init__(self, share_max: float) -> None:
        self._share_max = share_max
        self._pause_s = 0.05
        self.share = 0.0

    async def turn(self) -> None:
        """Wait for one's turn."""
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.5))  # not what is attacked with

    def saw(self, share: float) -> None:
        """Be told what share of a processor was used since the last time."""
        self.share = share
        factor = 1.25 if share > self._share_max else 0.9
        self._pause_s = min(5.0, max(0.005, self._pause_s * factor))


class Siege:
    """Serves the agents from several processes on a store, and knows which of them may go away.

    Args:
        store: The store's URL.
        folder: Where logs go.
        seed: What all that is random follows from.
        seconds: How long it lasts.
        share_max: Of one processor, for servers and attackers.
        kept_s: How long events and sessions are kept.
        kill_every_s: How often a worker is killed; None for never.
        workers: Processes that serve.
        end_s: What is under way gets so long when the time is up.
        popen: How the server is started.
    """

    def __init__(
        self,
        store: str,
        folder: Path,
        *,
        seed: int,
        seconds: float,
        share_max: float = CPU_SHARE_MAX,
        kept_s: float = 120.0,
        kill_every_s: float | None = KILL_EVERY_S,
        workers: int = WORKERS,
        end_s: float = END_S_MAX,
        popen: type[subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        self.store, self.seed, self.seconds, self.kept_s = store, seed, seconds, kept_s
        self.tally, self.pace = Tally(), Pace(share_max)
        self.ending = asyncio.Event()
        self.runs: dict[str, collections.deque[str]] = {user: collections.deque(maxlen=200) for user in KEYS}
        self.sessions: dict[str, collections.deque[str]] = {user: collections.deque(maxlen=200) for user in KEYS}
        self.memory: dict[int, list[tuple[float, int]]] = {}
        self.began = 0.0
        self.spared = 0
        """The worker that is never killed: its memory is judged."""
        self._end_s = end_s
        self._supervisor = -1
        self._kill_every_s = kill_every_s
        self._killed: dict[int, float] = {}
        self._known: set[int] = set()
        self._cpu: dict[int, float] = {}
        self._log_place = 0
        self._numbers = 0
        self._name = f"s{time.time_ns() // 1_000_000:x}"
        file = Path(served.__file__)
        self.server = Server(
            folder,
            store=store,
            popen=popen,
            agent=f"words={file}:words",
            arguments=(
                *(f"{name}={file}:{name}" for name in served.AGENTS[1:]),
                *("--workers", str(workers), "--log-format", "json", "--log-level", "info", "--drain", "3"),
                *("--config", f"timeout={kept_s}", "--config", f"answer_timeout={kept_s}"),
                *("--client-config", "on_worker_lost=continue,fail,restart"),
            ),
            environment={
                "GAPLESS_API_KEYS": ",".join(f"{user}={key}" for user, key in KEYS.items()),
                "GAPLESS_ATTACK_KEPT_S": str(kept_s),
                "PYTHONPATH": os.pathsep.join([str(file.parents[1]), os.environ.get("PYTHONPATH", "")]),
            },
        )

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server; returns when it takes runs."""
        self.server.start()
        deadline = time.monotonic() + 60
        while len(workers := self.server.workers()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        self.spared, self._supervisor = workers[0], self.server.pid
        self._known = set(self.server.workers())
        self.began = time.monotonic()

    async def run(self, attackers: Sequence[Callable[[Siege, random.Random], Awaitable[None]]]) -> None:
        """Let the attackers go on until the time is up or `ending` is set. What one of them raises is raised."""
        tasks = [asyncio.create_task(self._repeat(each, n)) for n, each in enumerate(attackers)]
        watch = asyncio.create_task(self._watch())
        try:
            ending = asyncio.create_task(self.ending.wait())
            await asyncio.wait([*tasks, ending, watch], timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            self.ending.set()
            await ending
            done, _ = await asyncio.wait([*tasks, watch], timeout=self._end_s, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            self.ending.set()
            for task in (*tasks, watch):
                task.cancel()
            await asyncio.gather(*tasks, watch, return_exceptions=True)

    async def _repeat(self, attacker: Callable[[Siege, random.Random], Awaitable[None]], number: int) -> None:
        rng = random.Random(f"{self.seed}:{number}")  # to be made again
        while not self.ending.is_set():
            await self.pace.turn()
            await attacker(self, rng)

    def stop(self, *, judged: bool = True) -> None:
        """End the server in order, and look at what it leaves behind."""
        if self.server.process is None:
            return
        if self.server.process.poll() is not None:
            self.tally.fault("the server has ended", code=self.server.process.returncode)
        elif judged:
            code = self.server.terminate()
            if code != 0:
                self.tally.fault("the server ends with an error", code=code)
        else:
            self.server.signal(signal.SIGTERM)
            self.server.wait()
        self._read_log()

    # -- what is known ------------------------------------------------------------------------------------------------

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began

    def number(self) -> int:
        """A number that nobody else has."""
        self._numbers += 1
        return self._numbers

    def id(self) -> str:
        """An id that nothing in the store has."""
        return f"{self._name}-{self.number()}"

    def felt_kill(self, since: float) -> bool:
        """Whether a worker was killed while something went on that began then."""
        return any(at > since - KILL_FELT_S for at in self._killed.values()) or self.ending.is_set()

    # -- asking -------------------------------------------------------------------------------------------------------

    def headers(self, user: str) -> dict[str, str]:
        return {"authorization": f"Bearer {KEYS[user]}"}

    def took(self, kind: str, status: int, about: str, body: bytes = b"", raw: bytes = b"") -> None:
        """Count an answer; one that no server should give is a fault."""
        self.tally.counts[kind] += 1
        self.tally.statuses[status] += 1
        if served.SECRET.encode() in body:
            self.tally.fault("an exception's text is shown", about=about)
        if status < 500:
            return
        code = _code(body)
        if status in OVERLOAD:
            self.tally.counts[f"overload {status} {code}"] += 1
        elif code in RUN_CODES:
            self.tally.counts[f"outcome {code}"] += 1
        else:
            self.tally.fault(f"status {status}", about=about, body=body[:500].decode("latin-1"), raw=_shown(raw))

    def unanswered(self, kind: str, since: float, error: NoAnswer, about: str, raw: bytes = b"") -> None:
        """Note a request that got no answer: a fault, unless a worker was killed with it."""
        if self.felt_kill(since):
            self.tally.counts["reset by a kill"] += 1
        else:
            self.tally.fault(f"{kind}: no answer", about=about, error=str(error), raw=_shown(raw))

    async def ask(
        self, method: str, target: str, user: str = "alice", body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, bytes]:
        """Ask properly; what a kill has taken along is asked again. The status, the JSON and the bytes of the answer;
        status 0 for none."""
        data = None if body is None else json.dumps(body).encode()
        raw = request(method, target, {**self.headers(user), **(headers or {})}, data)
        for _ in range(ASK_ATTEMPTS_MAX):
            await self.pace.turn()
            since = time.monotonic()
            try:
                async with Connection(self.server.port, raw) as connection:
                    content = await connection.body()
            except NoAnswer as error:
                self.unanswered("asked", since, error, f"{method} {target}", raw)
                continue
            self.took("asked", connection.status, f"{method} {target}", content, raw)
            if connection.status in OVERLOAD:
                await asyncio.sleep(0.5)
                continue
            return connection.status, _json(content), content
        return 0, None, b""

    # -- watching -----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        looked, measured, killed = time.monotonic(), 0.0, time.monotonic()
        rng = random.Random(f"{self.seed}:kills")  # to be made again
        while not self.ending.is_set():
            await asyncio.sleep(LOOK_EVERY_S)
            now = time.monotonic()
            self._look(now - looked)
            looked = now
            if now - measured > MEASURE_EVERY_S:
                measured = now
                self._measure()
                self._read_log()
            if self._kill_every_s is not None and now - killed > self._kill_every_s:
                killed = now + rng.uniform(-0.2, 0.2) * self._kill_every_s
                self._kill(rng)

    def _look(self, passed_s: float) -> None:
        workers = set(self.server.workers())
        # The list may lack one that lives, where another ends while it is read (proc_tid_children(5)).
        workers |= {pid for pid in self._known - workers if parent_of(pid) == self.server.pid}
        for pid in self._known - workers - self._killed.keys():
            load, free = os.getloadavg()[0], os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            last = self.memory.get(pid, [(0.0, 0)])[-1][1]
            self.tally.fault(GONE, pid=pid, load=round(load, 1), free_mb=free // 10**6, last_mb=last // 10**6)
        self._known = workers
        used = {pid: cpu_s(pid) for pid in (*workers, self.server.pid, os.getpid())}
        spent_s = sum(cpu - self._cpu.get(pid, 0.0) for pid, cpu in used.items() if cpu)
        if self._cpu:
            self.pace.saw(spent_s / passed_s)
        self._cpu = used

    def _measure(self) -> None:
        for pid in (*self._known, self.server.pid):
            if rss := rss_bytes(pid):
                self.memory.setdefault(pid, []).append((self.elapsed_s, rss))

    def _kill(self, rng: random.Random) -> None:
        victims = sorted(self._known - {self.spared} - self._killed.keys())
        if len(victims) < 1:
            return
        victim = rng.choice(victims)
        self._killed[victim] = time.monotonic()
        self.tally.counts["kills"] += 1
        os.kill(victim, signal.SIGKILL)

    def _read_log(self) -> None:
        with self.server.log.open("rb") as file:
            file.seek(self._log_place)
            lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        for line in lines:
            self._log_place += len(line)
            self.judge_line(line)

    def judge_line(self, line: bytes) -> None:
        """Look at a line of the server's log."""
        said = _json(line)
        if not isinstance(said, dict):
            if line.split(b" ", 1)[0].strip() not in (b"page", b"agents", b"users", b"store", b"workers", b""):
                self.tally.fault("a line of the log is no JSON", line=line[:500].decode("utf-8", "replace"))
            return
        self.tally.counts[f"log {said.get('level')}"] += 1
        if (told := WORKER_END.match(str(said.get("message")))) and int(told[1]) not in self._killed:
            self.tally.fault(GONE, line=line[:500].decode("utf-8", "replace"))
        if served.SECRET.encode() in line:
            self.tally.fault("an exception's text is logged", line=line[:500].decode())
        if "exception" in said or said.get("level") in ("error", "critical") or b"Traceback" in line:
            if said.get("message", "").startswith("agent fails raised ValueError at"):
                return
            self.tally.fault("an error in the log", line=line[:1500].decode())

    # -- the verdict --------------------------------------------------------------------------------------------------

    def judge_memory(self) -> dict[str, Any]:
        """What the spared worker and its supervisor had when they were warm, and at the end; growth is a fault."""
        found = {}
        for name, pid in (("worker", self.spared), ("supervisor", self._supervisor)):
            samples = self.memory.get(pid, [])
            if len(samples) < 4:
                continue
            last_s = samples[-1][0]
            warm = [rss for at, rss in samples if WARM_SHARE * last_s <= at < 1.6 * WARM_SHARE * last_s]
            end = [rss for at, rss in samples if at >= 0.85 * last_s]
            if not warm or not end:
                continue
            before, after = statistics.median(warm), statistics.median(end)
            growth = after / before - 1
            judged = last_s >= MEASURED_S_MIN
            found[name] = {
                "warm_mb": round(before / 1e6, 1),
                "end_mb": round(after / 1e6, 1),
                "growth": round(growth, 4),
                "judged": judged,
            }
            if judged and growth > GROWTH_MAX:
                self.tally.fault("memory grows", process=name, growth=round(growth, 4))
        return found

    def report(self) -> dict[str, Any]:
        """All that came of it, as JSON."""
        memory = self.judge_memory()
        return {
            "store": self.store.partition(":")[0],
            "seed": self.seed,
            "minutes": round(self.elapsed_s / 60, 2),
            "minutes_asked": round(self.seconds / 60, 2),
            "holds": self.tally.fault_count == 0,
            "fault_count": self.tally.fault_count,
            "memory": memory,
            "memory_mb": {
                str(pid): [[round(at), round(rss / 1e6)] for at, rss in samples[:: max(1, len(samples) // 60)]]
                for pid, samples in self.memory.items()
                if pid in (self.spared, self._supervisor)
            },
            "counts": dict(sorted(self.tally.counts.items())),
            "statuses": {str(status): count for status, count in sorted(self.tally.statuses.items())},
            "faults": self.tally.faults,
        }


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _code(body: bytes) -> str:
    said = _json(body)
    error = said.get("error") if isinstance(said, dict) else None
    return str(error.get("code")) if isinstance(error, dict) else ""


def _shown(raw: bytes) -> str:
    return raw[:3000].decode("latin-1")
