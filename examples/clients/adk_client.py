"""A program written for ADK's own server, made to survive cuts. `python adk_client.py [server]`"""

import json
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2

from gapless import durable_transport

server = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8000"
http = httpx2.Client(base_url=server, transport=durable_transport(httpx2.HTTPTransport()))  # the one line that is new
APP = http.get("/list-apps").json()[0]
USER = "ada"


def run_sse(session_id: str, question: str) -> Iterator[dict[str, Any]]:
    """The events of one turn."""
    request = {
        "appName": APP,
        "userId": USER,
        "sessionId": session_id,
        "newMessage": {"role": "user", "parts": [{"text": question}]},
        "streaming": True,
    }
    headers = {"X-Run-Id": uuid.uuid4().hex}  # may be left out; with it the start repeats itself too
    with http.stream("POST", "/run_sse", json=request, headers=headers) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise RuntimeError(event["error"])
                yield event


session = http.post(f"/apps/{APP}/users/{USER}/sessions").json()
for event in run_sse(session["id"], "Explain SSE"):
    if event.get("partial"):  # the whole of it follows, under the same id
        for part in event["content"]["parts"]:
            if not part.get("thought"):
                print(part.get("text", ""), end="", flush=True)
print()
