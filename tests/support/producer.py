"""A producer that dies: `python producer.py PORT RUN NAME BATCHES SENT WHERE`.

It begins where the run stands, sends `SENT` batches of the run's `BATCHES`, and kills itself in the middle of the next:
`WHERE` is how much of that request it sends, of 1000, or "unheard" for all of it and none of the answer. With `WHERE`
"end" it sends all that are left, and ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def request_of(run: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST /runs/{run}/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def answer_of(connection: socket.socket) -> dict[str, Any]:
    answer = b""
    while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < length_in(answer):
        part = connection.recv(65536)
        assert part, answer
        answer += part
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return dict(json.loads(answer.partition(b"\r\n\r\n")[2]))


def length_in(answer: bytes) -> int:
    head = answer.partition(b"\r\n\r\n")[0].lower()
    return int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])


def events_of(number: int, batches: int) -> list[Any]:
    said: list[Any] = [f"{number}a ", f"{number}b "]
    return [*said, {"type": "RUN_FINISHED", "threadId": "", "runId": ""}] if number == batches else said


def main(port: str, run: str, name: str, batches: str, sent: str, where: str) -> None:
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        connection.sendall(request_of(run, {"producer": name}))
        taken = answer_of(connection)
        last = int(batches)
        left = range(taken["number"] + 1, last + 1)
        for done, number in enumerate(left):
            body = {"producer": name, "epoch": taken["epoch"], "number": number, "events": events_of(number, last)}
            request = request_of(run, body)
            if where != "end" and (done == int(sent) or number == last):
                connection.sendall(request if where == "unheard" else request[: len(request) * int(where) // 1000])
                die()
            connection.sendall(request)
            answer_of(connection)


if __name__ == "__main__":
    main(*sys.argv[1:])
