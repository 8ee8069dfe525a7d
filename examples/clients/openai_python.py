"""OpenAI's own Python client, chat completions and responses. `python openai_python.py [server]`"""

import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress

import httpx2
import openai

from gapless import durable_transport

ATTEMPTS_MAX = 60
server = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8000"
plain = openai.OpenAI(base_url=f"{server}/v1", api_key="none")
MODEL = next(iter(plain.models.list())).id  # an agent is a model


def chat(question: str) -> Iterator[str]:
    """Chat completions have no resume of their own: over a durable transport they need none."""
    http = openai.DefaultHttpxClient(transport=durable_transport(httpx2.HTTPTransport()))
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none", http_client=http)
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        stream=True,
        extra_headers={"X-Run-Id": uuid.uuid4().hex},  # one run, also where the request is repeated
    ):
        yield chunk.choices[0].delta.content or ""


def respond(question: str) -> Iterator[str]:
    """Responses have one: `background=True` gives the answer a name at once, `starting_after` is the cursor."""
    response = plain.responses.create(model=MODEL, input=question, background=True)
    last: int | openai.Omit = openai.omit
    for _ in range(ATTEMPTS_MAX):
        with suppress(openai.APIConnectionError, UnicodeDecodeError):  # a cut, perhaps within a character
            for event in plain.responses.retrieve(response.id, stream=True, starting_after=last):
                last = event.sequence_number
                match event.type:
                    case "response.output_text.delta":
                        yield event.delta
                    case "response.completed":
                        return
                    case "response.failed" | "response.incomplete":
                        raise RuntimeError(f"{response.id} ended as {event.response.status}")
    raise ConnectionError("the server cannot be reached")


for ask in (chat, respond):
    for text in ask("Explain SSE"):
        print(text, end="", flush=True)
    print()
