"""Readers of event streams in Python, and curl.

Started by the matrix, as its scripts in JavaScript are.
"""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import httpx_sse

from gapless.client.durable import durable_transport
from gapless.events import decode_event
from tests.matrix.agent import CASES, WAITING
from tests.matrix.cases import BASE, QUICK, RESULTS, Case, Told, run_all
from tests.matrix.journal import Held, add

LOOPS_MAX = 60

# -- readers --------------------------------------------------------------------------------------------------------

Frames = Iterator[tuple[str, str]]
"""Data and id, of one connection or of several that look like one."""


def with_httpx_sse(url: str, last: str) -> Frames:
    transport = durable_transport(httpx.HTTPTransport(verify=False), limits=QUICK)
    params = {"after": last} if last else {}
    with (
        httpx.Client(transport=transport, timeout=60) as http,
        httpx_sse.connect_sse(http, "GET", url, params=params) as source,
    ):
        for event in source.iter_sse():
            yield event.data, event.id


def with_curl(url: str, last: str) -> Frames:
    command = ["curl", "-sSN", url, *(["-H", f"Last-Event-ID: {last}"] if last else [])]
    frame: dict[str, str] = {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:  # what has no blank line after it is half a frame
            name, _, value = line.removesuffix("\n").partition(": ")
            if name:
                frame[name] = value
            else:
                yield frame.pop("data", ""), frame.pop("id", "")
        process.kill()


def reading(read: Callable[[str, str], Frames], case: Case) -> Told:
    """Read until the run has ended, after each cut from the last id on."""
    run = httpx2.post(f"{BASE}/runs", json={"message": case.message, "run_id": f"{case.name}-run"}).json()["id"]
    events: list[Any] = []
    text, last, asked, cancelled = "", "", False, False
    for _ in itertools.repeat(None, LOOPS_MAX):
        for data, id in read(f"{case.url}/runs/{run}/events", last):
            if not data:
                continue
            event, last = json.loads(data), id
            events.append(decode_event(data.encode()))
            text += event["delta"] if event["type"] == "TEXT_MESSAGE_CONTENT" else ""
            if text.endswith(WAITING) and not cancelled:
                cancelled = True
                case.cancel()
            if event["type"] in ("RUN_FINISHED", "RUN_ERROR"):
                asked = event.get("outcome", {}).get("type") == "interrupt"
                break
        else:
            continue
        if not asked:
            break
        case.answer()
    return told_of(events)


def told_of(events: list[Any]) -> Told:
    held = Held()
    add(held, BASE, events)
    files = [{"type": type, "url": f"data:;base64,{base64.b64encode(data).decode()}"} for type, data in held.files]
    return {
        "text": held.text,
        "reasoning": held.reasoning,
        "calls": held.calls,
        "files": files,
        "questions": held.questions,
        "outcome": held.outcome,
    }


READERS = {"httpx-sse": with_httpx_sse, "curl": with_curl}


if __name__ == "__main__":
    cases = [case for case in CASES if case not in RESULTS]
    run_all(list(READERS), lambda case: reading(READERS[case.client], case), cases)
