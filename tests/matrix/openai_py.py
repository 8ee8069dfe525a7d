"""Clients in Python of OpenAI's APIs: OpenAI's own and LangChain.

Started by the matrix, as its scripts in JavaScript are.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

from gapless.client.durable import durable_transport
from tests.matrix.agent import WAITING
from tests.matrix.cases import MODEL, QUICK, RESULTS, Case, Told, run_all

PARAMETERS = {"type": "object", "properties": {}}
CHAT_TOOL: dict[str, Any] = {"type": "function", "function": {"name": "locate", "parameters": PARAMETERS}}
RESPONSES_TOOL: dict[str, Any] = {"type": "function", "name": "locate", "parameters": PARAMETERS, "strict": False}
ENDS = {"completed": "finished", "failed": "failed", "cancelled": "cancelled"}
Shown = Callable[[], None]


def durable() -> httpx2.Client:
    return openai.DefaultHttpxClient(transport=durable_transport(httpx2.HTTPTransport(verify=False), limits=QUICK))


def asking(key: str, ask: Callable[[Case, Told, Shown], None], case: Case) -> Told:
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


# -- OpenAI's own ---------------------------------------------------------------------------------------------------


def openai_chat(case: Case, told: Told, shown: Shown) -> None:
    client = openai.OpenAI(base_url=f"{case.url}/v1", api_key="none", http_client=durable())
    messages: list[Any] = [{"role": "user", "content": case.message}]
    tools = [CHAT_TOOL] if case.is_own else openai.omit
    while True:
        with client.chat.completions.stream(model=MODEL, messages=messages, tools=tools) as stream:
            for event in stream:
                if event.type == "content.delta":
                    told["one_text"] += event.delta
                    shown()
            choice = stream.get_final_completion().choices[0]
        told["outcome"] = "finished"
        calls = choice.message.tool_calls
        if not calls:
            return
        told["calls"] = [{"name": one.function.name, "arguments": one.function.arguments} for one in calls]
        result = {"role": "tool", "tool_call_id": calls[0].id, "content": RESULTS[case.kind]}
        messages += [choice.message.model_dump(exclude_none=True), result]


def items(told: Told, output: list[Any]) -> Any:
    """Tell of a response's calls; returns the one that is the client's to make."""
    mine = None
    for item in output:
        if item.type == "mcp_call":
            call: Told = {"name": item.name, "arguments": item.arguments, "failed": True if item.error else None}
            told["calls"].append(call if item.error else call | {"result": item.output})
        elif item.type == "function_call":
            told["calls"].append({"name": item.name, "arguments": item.arguments})
            mine = item
    return mine


def openai_responses(case: Case, told: Told, shown: Shown) -> None:
    client = openai.OpenAI(base_url=f"{case.url}/v1", api_key="none", http_client=durable())
    responses(case, told, shown, client.responses.create)


def responses(case: Case, told: Told, shown: Shown, create: Callable[..., Any]) -> None:
    request: dict[str, Any] = {"model": MODEL, "input": case.message}
    if case.is_own:
        request["tools"] = [RESPONSES_TOOL]
    told |= {"reasoning": "", "calls": []}
    while True:
        response: Any = None
        for event in create(**request, stream=True):
            if event.type == "response.output_text.delta":
                told["text"] += event.delta
                shown()
            if event.type == "response.reasoning_text.delta":
                told["reasoning"] += event.delta
            response = getattr(event, "response", None) or response
        told["outcome"] = ENDS.get(response.status, response.status)
        call = items(told, response.output)
        if call is None:
            return
        output = {"type": "function_call_output", "call_id": call.call_id, "output": RESULTS[case.kind]}
        request |= {"input": [output], "previous_response_id": response.id}


# -- LangChain -----------------------------------------------------------------------------


def langchain(key: str) -> Callable[[Case, Told, Shown], None]:
    def ask(case: Case, told: Told, shown: Shown) -> None:
        chat = ChatOpenAI(
            model=MODEL,
            base_url=f"{case.url}/v1",
            api_key="none",
            http_client=durable(),
            use_responses_api=key == "text",
        )
        model: Any = chat.bind_tools([CHAT_TOOL]) if case.is_own else chat
        messages: list[Any] = [HumanMessage(case.message)]
        while True:
            whole: Any = None
            for chunk in model.stream(messages):
                told[key] += chunk.text
                whole = chunk if whole is None else whole + chunk
                shown()
            told["outcome"] = ENDS.get(whole.response_metadata.get("status"), "finished")
            if not whole.tool_calls:
                return
            told["calls"] = [{"name": one["name"], "arguments": one["args"]} for one in whole.tool_calls]
            messages += [whole, ToolMessage(RESULTS[case.kind], tool_call_id=whole.tool_calls[0]["id"])]

    return ask


OPENAI = {
    "openai-py-chat": ("one_text", openai_chat),
    "openai-py-responses": ("text", openai_responses),
    "langchain-py-chat": ("one_text", langchain("one_text")),
    "langchain-py-responses": ("text", langchain("text")),
}


if __name__ == "__main__":
    run_all(list(OPENAI), lambda case: asking(*OPENAI[case.client], case))
