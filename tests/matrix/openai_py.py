"""Clients in Python of OpenAI's APIs: OpenAI's own and LangChain.

Started by the matrix, as its scripts in JavaScript are.
"""

from __future__ import annotations

from typing import Any

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

from tests.matrix.cases import MODEL, RESULTS, Case, Told, run_all
from tests.matrix.openai_apis import CHAT_TOOL, ENDS, Ask, Shown, asking, durable, responses

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


def openai_responses(case: Case, told: Told, shown: Shown) -> None:
    client = openai.OpenAI(base_url=f"{case.url}/v1", api_key="none", http_client=durable())
    responses(case, told, shown, client.responses.create)


# -- LangChain -----------------------------------------------------------------------------


def langchain(key: str) -> Ask:
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
