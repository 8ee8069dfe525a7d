"""OpenAI's own Python client, chat completions and responses. `python openai_python.py [server]`"""

import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress

import openai

ATTEMPTS_MAX = 60
server = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8000"
client = openai.OpenAI(base_url=f"{server}/v1", api_key="none")
MODEL = next(iter(client.models.list())).id  # an agent is a model


def chat(question: str) -> Iterator[str]:
    """Chat completions have no resume. Sent again with its `X-Run-Id` the request comes back to its run, from the
    start: what was shown already is left out here. Only a finish reason says that the answer is whole."""
    run_id, shown = uuid.uuid4().hex, 0
    for _ in range(ATTEMPTS_MAX):
        text = ""
        with suppress(openai.APIConnectionError, UnicodeDecodeError):  # a cut, perhaps within a character
            for chunk in client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": question}],
                stream=True,
                extra_headers={"X-Run-Id": run_id},
            ):
                choice = chunk.choices[0]
                text += choice.delta.content or ""
                if len(text) > shown:
                    yield text[shown:]
                    shown = len(text)
                if choice.finish_reason is not None:
                    return
    raise ConnectionError("the server cannot be reached")


def respond(question: str) -> Iterator[str]:
    """Responses do: `background=True` gives the answer a name at once, `starting_after` is the cursor."""
    response = client.responses.create(model=MODEL, input=question, background=True)
    last: int | openai.Omit = openai.omit
    for _ in range(ATTEMPTS_MAX):
        with suppress(openai.APIConnectionError, UnicodeDecodeError):  # a cut, perhaps within a character
            for event in client.responses.retrieve(response.id, stream=True, starting_after=last):
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
