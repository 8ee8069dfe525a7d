"""The load client, a process of its own: raw sockets and epoll, so that the server is the bottleneck.

Reads one JSON object from stdin, prints one to stdout. It also reads the server's CPU clock, so that time, events and
CPU are taken at the same moment. Actions:

* `sequence`: each connection sends its requests one after the other; from the first byte sent to the last answer.
* `window`: each connection sends one request; when all answer, count over a window.
* `ramp`: as `window`, with more and more connections, until p99 lateness passes the bound.

A `window` or a `ramp` can be followed by a command (`meanwhile`) that runs while the streams go on: a profiler.
"""

from __future__ import annotations

import binascii
import gc
import json
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from bench import osinfo
from bench.agents import CHUNK_CHARS, STAMP_UNIT_S, STAMP_WRAP
from bench.protocols import PROTOCOLS

RECEIVE_BYTES = 65536
OPENING_MAX = 100
"""Connections that wait for their first text at the same time, while a window or a ramp fills up."""
ERRORS_KEPT = 5
CREATED = b"HTTP/1.1 201 "
LAST_CHUNK = b"0\r\n\r\n"
CHUNK_FRAMING = re.compile(rb"[0-9a-f]*\r\n")
"""What chunked transfer coding adds to a body that has no carriage returns of its own."""


class Connection:
    __slots__ = ("chars", "ended", "first_at", "headers", "requests", "sent_at", "sock", "tail")

    def __init__(self, port: int, requests: list[dict[str, Any]]) -> None:
        self.requests = requests[::-1]
        self.chars = 0
        self.ended = False
        self.sent_at = 0.0
        self.first_at = 0.0
        self.headers: bytes | None = b""
        self.tail = b""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)

    def send(self) -> None:
        """Send the next request. The requests are far smaller than a socket's buffer, or are sent blocking."""
        self.chars, self.ended, self.first_at = 0, False, 0.0
        self.headers, self.tail = b"", b""
        self.sock.setblocking(True)
        self.sent_at = time.monotonic()
        self.sock.sendall(self.requests[-1]["send"].encode())
        self.sock.setblocking(False)


class Load:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        protocol = PROTOCOLS[spec["protocol"]]
        self.find_text = re.compile(spec["text"].encode() if "text" in spec else protocol.text).findall
        self.body_only: bool = spec.get("body_only", False)
        self.end_marker = protocol.end.encode()
        self.frame_end = 2 * protocol.line_end
        self.epoll = select.epoll()
        self.open: dict[int, Connection] = {}
        self.chars = self.frames = self.bytes = self.answers = self.speaking = 0
        self.deadline = time.monotonic() + spec["deadline_s"]
        self.errors: list[str] = []
        self.error_count = 0
        self.first_s: list[float] = []
        self.first_late: list[tuple[float, bytes]] = []
        self.arrivals: list[tuple[float, bytes]] | None = None

    # ------------------------------------------------------------------------------------------------ connections

    def connect(self, requests: list[dict[str, Any]]) -> Connection:
        connection = Connection(self.spec["port"], requests)
        self.open[connection.sock.fileno()] = connection
        self.epoll.register(connection.sock.fileno(), select.EPOLLIN)
        return connection

    def close(self, connection: Connection) -> None:
        fd = connection.sock.fileno()
        self.epoll.unregister(fd)
        del self.open[fd]
        connection.sock.close()

    def fail(self, connection: Connection, what: str) -> None:
        self.error_count += 1
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(what)
        self.close(connection)

    def poll(self, until: Callable[[], bool]) -> None:
        """Read what comes until `until()`, which is asked after each batch. Raises `TimeoutError` at the deadline."""
        now = time.monotonic
        while not until():
            if now() > self.deadline:
                raise TimeoutError(f"{len(self.open)} connections still open; {self.errors}")
            for fd, _ in self.epoll.poll(0.01):
                self.readable(self.open[fd], now())

    def poll_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.poll(lambda: time.monotonic() >= end)

    # ----------------------------------------------------------------------------------------------------- reading

    def readable(self, connection: Connection, now: float) -> None:
        try:
            data = connection.sock.recv(RECEIVE_BYTES)
        except OSError as error:
            return self.fail(connection, f"receive failed: {error}")
        if not data:
            return self.fail(connection, f"closed after {connection.chars} characters, before the end")
        if connection.headers is not None:
            data = connection.headers + data
            if data.startswith(CREATED) and data.endswith(LAST_CHUNK):
                connection.headers = b""
                connection.sock.sendall(connection.requests[-1]["then"].encode())  # small, as in `send`
                return None
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                connection.headers = head
                return None
            if b"transfer-encoding: chunked" not in head.lower() or b" 200 " not in head[:16]:
                return self.fail(connection, f"answer {(head[:40] + b' ... ' + data[:300]).decode(errors='replace')}")
            connection.headers = None
            if not data:
                return None
        self.bytes += len(data) if not self.body_only else len(CHUNK_FRAMING.sub(b"", data))
        if connection.tail:
            data = connection.tail + data
        data, connection.tail = self.frames_in(data)
        texts = self.find_text(data)
        if texts:
            text = texts[0] if len(texts) == 1 else b"".join(texts)
            connection.chars += len(text)
            self.chars += len(text)
            if self.arrivals is not None:
                self.arrivals.append((now, text))
            if not connection.first_at:
                connection.first_at = now
                self.speaking += 1
                self.first_s.append(now - connection.sent_at)
                self.first_late.append((now, text[:CHUNK_CHARS]))
        self.frames += data.count(b"data:")
        if not connection.ended and self.end_marker in data:
            connection.ended = True
        if connection.tail.endswith(LAST_CHUNK):
            self.answered(connection)
        return None

    def frames_in(self, data: bytes) -> tuple[bytes, bytes]:
        """The whole frames of what has come, and the rest."""
        end = self.frame_end
        if not end:  # one text, which is whole when it has ended
            return (data, LAST_CHUNK) if data.endswith(LAST_CHUNK) else (b"", data)
        if data.endswith(end + b"\r\n"):  # a frame's end, and so a chunk's of the transfer coding
            return data, b""
        until = len(data) - len(LAST_CHUNK) if data.endswith(LAST_CHUNK) else len(data)
        cut = data.rfind(end, 0, until)
        return (data[: cut + len(end)], data[cut + len(end) :]) if cut >= 0 else (b"", data)

    def answered(self, connection: Connection) -> None:
        request = connection.requests.pop()
        self.answers += 1
        if not connection.ended:
            return self.fail(connection, "the answer has no end marker")
        if request["chars"] is not None and connection.chars != request["chars"]:
            return self.fail(connection, f"{connection.chars} characters instead of {request['chars']}")
        if connection.requests:
            connection.send()
        else:
            self.close(connection)
        return None

    # ---------------------------------------------------------------------------------------------------- measuring

    def snapshot(self) -> dict[str, float]:
        return {
            "wall_s": time.monotonic(),
            "cpu_s": sum(osinfo.cpu_s(pid) for pid in self.spec["pids"]),
            "writes": sum(osinfo.writes(pid) for pid in self.spec["pids"]),
            "wakes": sum(osinfo.wakes(pid) for pid in self.spec["pids"]),
            "client_cpu_s": time.process_time(),
            "chars": self.chars,
            "frames": self.frames,
            "bytes": self.bytes,
        }

    def since(self, before: dict[str, float]) -> dict[str, float]:
        after = self.snapshot()
        result = {name: after[name] - value for name, value in before.items()}
        result["events"] = result.pop("chars") / CHUNK_CHARS
        return result

    def sequence(self) -> dict[str, Any]:
        connections = [self.connect(requests) for requests in self.spec["connections"]]
        # The server has accepted all of them when it has answered nothing for a moment.
        self.poll_for(self.spec.get("settle_s", 0.05))
        before = self.snapshot()
        for connection in connections:
            connection.send()
        self.poll(lambda: not self.open)
        return {**self.since(before), "first": self.first_latencies()}

    def fill(self, requests: list[dict[str, Any]], s_max: float = float("inf")) -> bool:
        """Open one connection per request, a bounded number at a time; whether each has text before `s_max` is over."""
        wanted = self.speaking + len(requests)
        end = time.monotonic() + s_max
        waiting = requests[::-1]

        def more() -> bool:
            while waiting and len(self.open) + self.error_count - self.speaking < OPENING_MAX:
                self.connect([waiting.pop()]).send()
            return self.speaking + self.error_count >= wanted or time.monotonic() > end

        self.poll(more)
        return self.speaking + self.error_count >= wanted

    def window(self) -> dict[str, Any]:
        self.fill([requests[0] for requests in self.spec["connections"]])
        self.poll_for(self.spec["settle_s"])
        result = self.window_now(self.spec["window_s"])
        if self.spec.get("to_the_end"):
            self.poll(lambda: not self.open)
        return result

    def window_now(self, window_s: float) -> dict[str, Any]:
        arrivals: list[tuple[float, bytes]] = []
        self.arrivals = arrivals
        before = self.snapshot()
        self.poll_for(window_s)
        result = self.since(before)
        self.arrivals = None
        return {**result, **lateness(arrivals)}

    def ramp(self) -> dict[str, Any]:
        memory = osinfo.private_bytes(self.spec["pids"])
        steps = []
        used = 0
        for streams in self.spec["levels"]:
            new = self.spec["connections"][used:streams]
            used = streams
            full = self.fill([requests[0] for requests in new], self.spec.get("fill_s", float("inf")))
            self.poll_for(self.spec["settle_s"])
            # Late once may be a busy neighbour; an overloaded server stays late.
            for _ in range(self.spec.get("attempts", 1) if full else 1):
                step = {"streams": streams, **self.window_now(self.spec["window_s"])}
                if step["p99_s"] <= self.spec["late_s"]:
                    break
            if not full and step["p99_s"] <= self.spec["late_s"]:
                break  # too slow to start so many: what was measured is not this level
            step["memory_bytes"] = osinfo.private_bytes(self.spec["pids"]) - memory
            steps.append(step)
            if not full or step["p99_s"] > self.spec["late_s"] or self.error_count:
                break
        return {"steps": steps}

    def meanwhile(self, command: list[str]) -> dict[str, Any]:
        """Read on until the command has ended. Its output on stderr is part of the result, and so is what came."""
        before = self.snapshot()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            try:
                self.poll(lambda: process.poll() is not None)
            finally:
                process.kill()
            assert process.stderr is not None
            return {"status": process.returncode, "said": process.stderr.read(), **self.since(before)}

    def first_latencies(self) -> dict[str, float]:
        if not self.first_s:
            return {}
        answers = sorted(self.first_s)
        return {
            "median_s": answers[len(answers) // 2],
            **{f"late_{k}": v for k, v in lateness(self.first_late).items()},
        }


def lateness(arrivals: list[tuple[float, bytes]]) -> dict[str, float]:
    """The time from when each chunk was due to when it was read, over all chunks."""
    late = []
    for at, text in arrivals:
        now = int(at / STAMP_UNIT_S)
        raw = binascii.a2b_base64(text)
        for i in range(0, len(raw), 3):
            units = (now - int.from_bytes(raw[i : i + 3], "big")) % STAMP_WRAP
            # Just below the wrap is a clock that rounds: not late at all.
            late.append(0 if units > STAMP_WRAP - 1000 else units)
    if not late:
        return {"p50_s": 0.0, "p99_s": 0.0, "max_s": 0.0}
    late.sort()
    count = len(late)
    return {
        "p50_s": late[count // 2] * STAMP_UNIT_S,
        "p99_s": late[min(count - 1, count * 99 // 100)] * STAMP_UNIT_S,
        "max_s": late[-1] * STAMP_UNIT_S,
    }


def main() -> None:
    spec = json.load(sys.stdin)
    load = Load(spec)
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing here makes cycles; a collection over many connections would look like lateness
    try:
        result: dict[str, Any] = {"sequence": load.sequence, "window": load.window, "ramp": load.ramp}[spec["action"]]()
        if "meanwhile" in spec:
            result["meanwhile"] = load.meanwhile(spec["meanwhile"])
    except TimeoutError as error:
        result = {}
        load.error_count += 1
        load.errors.append(f"not done after {spec['deadline_s']} s: {error}")
    print(json.dumps({**result, "error_count": load.error_count, "errors": load.errors}))


if __name__ == "__main__":
    main()
