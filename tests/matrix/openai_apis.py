"""What clients of OpenAI's APIs in Python share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai

from gapless.client.durable import durable_transport
from tests.matrix.agent import WAITING
from tests.matrix.cases import MODEL, QUICK, RESULTS, Case, Told

PARAMETERS = {"type": "object", "properties": {}}
CHAT_TOOL: dict[str, Any] = {"type": "function", "function": {"name": "locate", "parameters": PARAMETERS}}
RESPONSES_TOOL: dict[str, Any] = {"type": "function", "name": "locate", "parameters": PARAMETERS, "strict": False}
ENDS = {"completed": "finished", "failed": "failed", "cancelled": "cancelled"}
Shown = Callable[[], None]
Ask = Callable[[Case, Told, Shown], None]


def durable() -> httpx2.Client:
    return openai.DefaultHttpxClient(transport=durable_transport(httpx2.HTTPTransport(verify=False), limits=QUICK))


def asking(key: str, ask: Ask, case: Case) -> Told:
    """What a client of OpenAI's APIs made of a case: `ask` puts the text at `key`, and calls `shown` after each
    piece."""
    told: Told = {key: "", "links": True}
    cancelled: list[str] = []

    def shown() -> None:
        if not cancelled and told[key].endswith(WAITING):
            cancelled.append(case.name)
            case.cancel()

    with ThreadPoolExecutor(1) as aside:
        answered = aside.submit(case.answer) if case.kind == "questions" else None
        try:
            ask(case, told, shown)
        except Exception as error:
            told["error"] = f"{type(error).__name__} {getattr(error, 'code', '')} {error}"
            told["outcome"] = "cancelled" if "cancelled" in told["error"] else "failed"
        if answered is not None:
            answered.result()
    return told


def items(told: Told, output: list[Any]) -> Told | None:
    """Tell of a response's calls; returns the one that is the client's to make."""
    mine = None
    for item in map(plain, output):
        if item["type"] == "mcp_call":
            call: Told = {
                "name": item["name"],
                "arguments": item["arguments"],
                "failed": True if item["error"] else None,
            }
            told["calls"].append(call if item["error"] else call | {"result": item["output"]})
        elif item["type"] == "function_call":
            told["calls"].append({"name": item["name"], "arguments": item["arguments"]})
            mine = item
    return mine


def plain(model: Any) -> Told:
    """What a client has as a model of Pydantic, or as it came where it knows none."""
    return model if isinstance(model, dict) else dict(model.model_dump())


def responses(case: Case, told: Told, shown: Shown, create: Callable[..., Any], model: str = MODEL) -> None:
    request: dict[str, Any] = {"model": model, "input": case.message}
    if case.is_own:
        request["tools"] = [RESPONSES_TOOL]
    told |= {"reasoning": "", "calls": []}
    while True:
        response: Told = {}
        for event in create(**request, stream=True):
            if event.type == "response.output_text.delta":
                told["text"] += event.delta
                shown()
            if event.type == "response.reasoning_text.delta":
                told["reasoning"] += event.delta
            if getattr(event, "response", None) is not None:
                response = plain(event.response)
        told["outcome"] = ENDS.get(response["status"], response["status"])
        call = items(told, response["output"])
        if call is None:
            return
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": RESULTS[case.kind]}
        request |= {"input": [output], "previous_response_id": response["id"]}
