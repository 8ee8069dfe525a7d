"""Clients in Python: OpenAI's, LangChain, litellm, OpenAI's Agents SDK, ADK's, and readers of event streams.

Started by the matrix, as its scripts in JavaScript are.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or its import asks the network
import agents
import httpx
import httpx2
import httpx_sse
import litellm
import openai
from agents import function_tool
from google.adk.cli.api_server import RunAgentRequest
from google.adk.cli.conformance.adk_web_server_client import AdkWebServerClient
from google.genai import types
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from litellm.llms.custom_httpx.http_handler import HTTPHandler

from gapless.client import ClientLimits
from gapless.client.durable import durable_transport
from gapless.events import decode_event
from tests.matrix.agent import CASES, WAITING
from tests.matrix.journal import Held, add

GIVEN = json.loads(os.environ["GAPLESS_TEST"])
URLS: dict[str, str] = GIVEN["urls"]
BASE = URLS["none"]
MODEL = "agent"
QUICK = ClientLimits(retry_first_s=0.001, retry_max_s=0.005)
AT_ONCE = 6
LOOPS_MAX = 60
RESULTS = {"own": "Zürich", "own_failed": "no position"}
PARAMETERS = {"type": "object", "properties": {}}
CHAT_TOOL: dict[str, Any] = {"type": "function", "function": {"name": "locate", "parameters": PARAMETERS}}
RESPONSES_TOOL: dict[str, Any] = {"type": "function", "name": "locate", "parameters": PARAMETERS, "strict": False}
ENDS = {"completed": "finished", "failed": "failed", "cancelled": "cancelled"}
Told = dict[str, Any]
Shown = Callable[[], None]


class Case:
    """One case of one client behind one kind of cut."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.client, self.cut, self.kind = name.split(".")
        self.url = URLS[self.cut]
        self.message = f"{self.kind} {name}"

    @property
    def is_own(self) -> bool:
        return self.kind in RESULTS

    def run(self) -> str:
        """The newest run of the case."""
        while not (runs := httpx2.get(f"{BASE}/asked", params={"message": self.message}).json()):
            time.sleep(0.01)
        return str(runs[-1])

    def cancel(self) -> None:
        httpx2.post(f"{BASE}/runs/{self.run()}/cancel").raise_for_status()

    def answer(self) -> None:
        """Say yes to what the run asks, once it does."""
        run = self.run()
        while httpx2.get(f"{BASE}/runs/{run}").json()["status"] != "waiting":
            time.sleep(0.02)
        page = httpx2.get(f"{BASE}/runs/{run}/events?limit=1000", headers={"accept": "application/json"}).json()
        asked = page["events"][-1]["outcome"]["interrupts"]
        yes = [{"interruptId": one["id"], "status": "resolved", "payload": {"approved": True}} for one in asked]
        httpx2.post(f"{BASE}/runs/{run}/input", json={"resume": yes}).raise_for_status()


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


def responses(case: Case, told: Told, shown: Shown, create: Callable[..., Any], **given: Any) -> None:
    request: dict[str, Any] = {"model": MODEL, "input": case.message, **given}
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


# -- LangChain, litellm, the Agents SDK -----------------------------------------------------------------------------


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


def litellm_chat(case: Case, told: Told, shown: Shown) -> None:
    client = openai.OpenAI(base_url=f"{case.url}/v1", api_key="none", http_client=durable())
    messages: list[Any] = [{"role": "user", "content": case.message}]
    tools = [CHAT_TOOL] if case.is_own else None
    while True:
        chunks = []
        for chunk in litellm.completion(
            model=f"openai/{MODEL}", client=client, messages=messages, tools=tools, stream=True
        ):
            chunks.append(chunk)
            told["one_text"] += chunk.choices[0].delta.content or ""
            shown()
        message = litellm.stream_chunk_builder(chunks).choices[0].message
        told["outcome"] = "finished"
        if not message.tool_calls:
            return
        told["calls"] = [{"name": one.function.name, "arguments": one.function.arguments} for one in message.tool_calls]
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": RESULTS[case.kind]}
        messages += [message.model_dump(exclude_none=True), result]


def litellm_responses(case: Case, told: Told, shown: Shown) -> None:
    http = httpx.Client(transport=durable_transport(httpx.HTTPTransport(verify=False), limits=QUICK), timeout=60)
    given = {"api_base": f"{case.url}/v1", "api_key": "none", "client": HTTPHandler(client=http)}
    responses(case, told, shown, litellm.responses, **given | {"model": f"openai/{MODEL}"})


def agents_sdk(key: str) -> Callable[[Case, Told, Shown], None]:
    kind = agents.OpenAIResponsesModel if key == "text" else agents.OpenAIChatCompletionsModel

    def ask(case: Case, told: Told, shown: Shown) -> None:
        @function_tool(strict_mode=False)
        def locate() -> str:
            if case.kind == "own_failed":
                raise RuntimeError(RESULTS[case.kind])
            return RESULTS[case.kind]

        async def run() -> None:
            transport = durable_transport(httpx2.AsyncHTTPTransport(verify=False), limits=QUICK)
            http = openai.DefaultAsyncHttpxClient(transport=transport)
            client = openai.AsyncOpenAI(base_url=f"{case.url}/v1", api_key="none", http_client=http)
            agent = agents.Agent(name="asks", model=kind(MODEL, client), tools=[locate] if case.is_own else [])
            result = agents.Runner.run_streamed(agent, case.message)
            async for event in result.stream_events():
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                    told[key] += event.data.delta
                    await asyncio.to_thread(shown)
            if case.is_own:
                calls = [one.raw_item for one in result.new_items if one.type == "tool_call_item"]
                told["calls"] = [{"name": one.name, "arguments": one.arguments} for one in calls]
            told["outcome"] = "finished"

        agents.set_tracing_disabled(True)
        asyncio.run(run())

    return ask


# -- ADK's ----------------------------------------------------------------------------------------------------------


def adk(case: Case) -> Told:
    return asyncio.run(_adk(case))


async def _adk(case: Case) -> Told:
    told: Told = {"text": "", "reasoning": "", "calls": [], "files": [], "questions": 0, "outcome": "finished"}
    calls: dict[str, Told] = {}
    partial = ""
    async with AdkWebServerClient(case.url) as client:
        transport = durable_transport(httpx.AsyncHTTPTransport(verify=False), limits=QUICK)
        client._client = httpx.AsyncClient(base_url=case.url, timeout=60, transport=transport)
        session = await client.create_session(app_name=MODEL, user_id="u")
        asks: list[Any] = []
        message = types.UserContent(case.message)
        for _ in range(2):
            request = RunAgentRequest(
                app_name=MODEL, user_id="u", session_id=session.id, new_message=message, streaming=True
            )
            try:
                async for event in client.run_agent(request):
                    for part in (event.content.parts if event.content else None) or ():
                        if event.partial:
                            partial += part.text or "" if not part.thought else ""
                        else:
                            _take(told, calls, asks, part)
                    if event.partial and partial.endswith(WAITING):
                        await asyncio.to_thread(case.cancel)
                    if event.error_code == "INVOCATION_ABORTED":
                        told["outcome"] = "cancelled"
            except RuntimeError as error:
                told |= {"outcome": "failed", "error": str(error)}
            if not asks:
                break
            told["questions"] += len(asks)
            yes = types.FunctionResponse(id=asks[0].id, name=asks[0].name, response={"confirmed": True})
            message = types.UserContent(types.Part(function_response=yes))
            asks = []
    if partial != told["text"]:
        told["text"] = f"{partial}, and as a whole {told['text']}"
    return told


def _take(told: Told, calls: dict[str, Told], asks: list[Any], part: Any) -> None:
    if part.text:
        told["reasoning" if part.thought else "text"] += part.text
    if part.function_call and part.function_call.name == "adk_request_confirmation":
        asks.append(part.function_call)
    elif part.function_call:
        calls[part.function_call.id] = {"name": part.function_call.name, "arguments": part.function_call.args}
        told["calls"].append(calls[part.function_call.id])
    if part.function_response and part.function_response.id in calls:
        response = part.function_response.response
        failed = response.get("error")
        calls[part.function_response.id] |= {"failed": failed} if failed else {"failed": None, "result": response}
    if part.inline_data:
        data = base64.b64encode(part.inline_data.data).decode()
        told["files"].append({"type": part.inline_data.mime_type, "url": f"data:;base64,{data}"})
    if part.file_data:
        told["files"].append({"type": part.file_data.mime_type, "url": part.file_data.file_uri})


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
    done = subprocess.run(command, capture_output=True, check=False)
    for block in done.stdout.split(b"\n\n")[:-1]:  # what is after the last blank line is half a frame
        lines = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
        yield lines.get(b"data", b"").decode(), lines.get(b"id", b"").decode()


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


# -- all of them ----------------------------------------------------------------------------------------------------

OPENAI = {
    "openai-py-chat": ("one_text", openai_chat),
    "openai-py-responses": ("text", openai_responses),
    "langchain-py-chat": ("one_text", langchain("one_text")),
    "langchain-py-responses": ("text", langchain("text")),
    "litellm-chat": ("one_text", litellm_chat),
    "litellm-responses": ("text", litellm_responses),
    "agents-py-chat": ("one_text", agents_sdk("one_text")),
    "agents-py-responses": ("text", agents_sdk("text")),
}
READERS = {"httpx-sse": with_httpx_sse, "curl": with_curl}


def tell(name: str) -> Told:
    """One case, or why there is nothing of it."""
    case = Case(name)
    try:
        if case.client in OPENAI:
            return asking(*OPENAI[case.client], case)
        return adk(case) if case.client == "adk" else reading(READERS[case.client], case)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def main() -> None:
    clients, cases = GIVEN["only"]["clients"], GIVEN["only"]["cases"]
    wanted = [name for name in (*OPENAI, "adk", *READERS) if name in clients or not clients]
    names = [
        f"{client}.{cut}.{kind}"
        for client in wanted
        for cut in URLS
        for kind in cases or CASES
        if client in OPENAI or kind not in RESULTS
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = dict(zip(names, pool.map(tell, names), strict=True))
    Path(GIVEN["report"]).write_text(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
