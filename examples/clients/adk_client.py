"""A program written for ADK's own server, with what it takes to survive a cut. `python adk_client.py [server]`"""

import json
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2

from gapless.client import EventStreamParser

ATTEMPTS_MAX = 60
server = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8000"
http = httpx2.Client(base_url=server, timeout=45)
APP = http.get("/list-apps").json()[0]
USER = "ada"


def run_sse(session_id: str, question: str) -> Iterator[dict[str, Any]]:
    """The events of one turn. After a cut the same request is sent again, with the id of the last event."""
    request = {
        "appName": APP,
        "userId": USER,
        "sessionId": session_id,
        "newMessage": {"role": "user", "parts": [{"text": question}]},
        "streaming": True,
    }
    headers = {"X-Run-Id": uuid.uuid4().hex}  # and if the start itself got lost, this makes it one run all the same
    for _ in range(ATTEMPTS_MAX):
        parser = EventStreamParser()
        try:
            with http.stream("POST", "/run_sse", json=request, headers=headers) as answer:
                answer.raise_for_status()
                if answer.status_code == httpx2.codes.NO_CONTENT:
                    return
                for piece in answer.iter_bytes():
                    for frame in parser.feed(piece):
                        if frame.event == "end":
                            return
                        headers["Last-Event-ID"] = frame.id or ""
                        yield json.loads(frame.data or "")
        except httpx2.TransportError:
            time.sleep(0.2)
    raise ConnectionError("the server cannot be reached")


session = http.post(f"/apps/{APP}/users/{USER}/sessions").json()
for event in run_sse(session["id"], "Explain SSE"):
    if event.get("partial"):  # the whole of it follows, under the same id
        for part in event["content"]["parts"]:
            if not part.get("thought"):
                print(part.get("text", ""), end="", flush=True)
print()
