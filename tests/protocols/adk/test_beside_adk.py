"""The same agents on ADK's own server and here, side by side: event for event, ids and times apart."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx2
import pytest
from google.adk.agents import BaseAgent, LlmAgent, LoopAgent, ParallelAgent, SequentialAgent
from google.adk.apps import App
from google.adk.cli.fast_api import get_fast_api_app
from google.adk.cli.utils.base_agent_loader import BaseAgentLoader
from google.adk.events import Event, EventActions, RequestInput
from google.adk.planners import PlanReActPlanner
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.sessions import InMemorySessionService
from google.adk.tools import AgentTool, FunctionTool, LongRunningFunctionTool, ToolContext
from google.adk.workflow import START, Workflow
from google.genai import types
from pydantic import BaseModel

from gapless import Runner
from tests.support.adk import Call, Raises, Scripted, Streamed, Thought
from tests.support.sse import frames

USAGE = types.GenerateContentResponseUsageMetadata(prompt_token_count=3, candidates_token_count=4, total_token_count=7)
CODE = types.Part(executable_code=types.ExecutableCode(language=types.Language.PYTHON, code="print(1)"))
OUTCOME = types.Part(code_execution_result=types.CodeExecutionResult(outcome=types.Outcome.OUTCOME_OK, output="1"))
PICTURE = types.Part(inline_data=types.Blob(data=b"\x89PNG\xff\xfe", mime_type="image/png"))
ADD = Call("add", {"a": 1, "b": 2}, id="c1")


def add(a: int, b: int) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


def long_story(about: str) -> dict[str, str]:
    """Tells."""
    return {"story": about * 2}


def remember(tool_context: ToolContext) -> str:
    """Remembers."""
    tool_context.state["x"] = 1
    return "ok"


def exit_loop(tool_context: ToolContext) -> dict[str, Any]:
    """Leaves the loop."""
    tool_context.actions.escalate = True
    tool_context.actions.skip_summarization = True
    return {}


async def keep(tool_context: ToolContext) -> dict[str, int]:
    """Keeps a file."""
    return {"version": await tool_context.save_artifact("note.txt", types.Part(text="kept"))}


def show() -> dict[str, Any]:
    """Shows."""
    return {
        "seen": True,
        "pictures": [types.Part.from_bytes(data=b"\x89PNG\xff\xfe" * n, mime_type="image/png") for n in (1, 2)],
    }


def file_claim() -> dict[str, str]:
    """Files."""
    return {"status": "pending"}


class City(BaseModel):
    name: str


class Custom(BaseAgent):
    """Says words, changes the state, and escalates, in events of its own."""

    async def _run_async_impl(self, ctx: Any) -> AsyncGenerator[Event, None]:
        base = {"author": self.name, "invocation_id": ctx.invocation_id}
        yield Event(
            **base, content=types.Content(role="model", parts=[types.Part(text="So. "), types.Part(text="Yes.")])
        )
        yield Event(**base, actions=EventActions(state_delta={"k": [1, {"n": None}]}))
        yield Event(**base, actions=EventActions(escalate=True), custom_metadata={"mine": 1})


def llm(name: str, *scripts: list[Any], usage: Any = None, **fields: Any) -> LlmAgent:
    return LlmAgent(name=name, model=Scripted(*scripts, usage=usage), **fields)


def count(callback_context: Any) -> None:
    callback_context.state["runs"] = callback_context.state.get("runs", 0) + 1


def last_word(callback_context: Any) -> types.Content:
    callback_context.state["last"] = True
    return types.Content(role="model", parts=[types.Part(text="The last word.")])


def refuse(callback_context: Any, llm_request: Any) -> Any:
    from google.adk.models.llm_response import LlmResponse

    return LlmResponse(content=types.Content(role="model", parts=[types.Part(text="No.")]))


def louder(callback_context: Any, llm_response: Any) -> Any:
    if llm_response.partial or not llm_response.content:
        return None
    llm_response.content.parts = [types.Part(text="LOUD")]
    return llm_response


def fail() -> str:
    """Fails."""
    raise ValueError("It is broken.")


def instead(tool: Any, args: dict[str, Any], tool_context: ToolContext) -> dict[str, Any] | None:
    return {"sum": "kept"} if tool.name == "add" else None


def doubled(tool: Any, args: dict[str, Any], tool_context: ToolContext, tool_response: Any) -> Any:
    return {**tool_response, "twice": True} if tool.name == "long_story" else None


def overcome(tool: Any, args: dict[str, Any], tool_context: ToolContext, error: Exception) -> dict[str, Any]:
    return {"error": f"{tool.name}: {error}"}


def begin(node_input: Any) -> str:
    return "begun"


async def shout(node_input: Any) -> AsyncGenerator[Any, None]:
    yield Event(state={"shouted": True})  # type: ignore[call-arg]  # for its actions
    yield Event(content=types.Content(role="model", parts=[types.Part(text="Loud.")]))
    yield Event(output=f"{node_input}!")


def which(node_input: Any) -> Event:
    return Event(output=node_input, route="left")  # type: ignore[call-arg]  # for its actions


async def asks(node_input: Any) -> AsyncGenerator[Any, None]:
    yield RequestInput(interrupt_id="q", message="Which?", response_schema={"type": "object"})


class Plugin(BasePlugin):
    """Has a word in everything: what is asked, each event, tools and the end."""

    async def on_user_message_callback(self, *, invocation_context: Any, user_message: types.Content) -> Any:
        return types.Content(role="user", parts=[*(user_message.parts or ()), types.Part(text="(politely)")])

    async def before_tool_callback(self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any) -> Any:
        tool_context.state["called"] = tool.name

    async def after_tool_callback(self, *, tool: Any, tool_args: Any, tool_context: Any, result: Any) -> Any:
        return {**result, "seen": True}

    async def on_event_callback(self, *, invocation_context: Any, event: Event) -> Event | None:
        if event.partial:
            return None
        return event.model_copy(update={"custom_metadata": {"by": "plugin"}})


class Stopper(BasePlugin):
    """Answers in the agent's place."""

    async def before_run_callback(self, *, invocation_context: Any) -> types.Content | None:
        return types.Content(role="model", parts=[types.Part(text="Not today.")])


class Mender(BasePlugin):
    """Overcomes what a model and a tool fail with."""

    async def on_model_error_callback(self, *, callback_context: Any, llm_request: Any, error: Exception) -> Any:
        from google.adk.models.llm_response import LlmResponse

        return LlmResponse(content=types.Content(role="model", parts=[types.Part(text="Sorry.")]))

    async def on_tool_error_callback(self, *, tool: Any, tool_args: Any, tool_context: Any, error: Exception) -> Any:
        return {"error": str(error)}


AGENTS: dict[str, Callable[[], Any]] = {
    "plain": lambda: llm("plain", [Thought("hm "), Thought("ok"), "Hello ", "thëre 🦉\n"], usage=USAGE),
    "tools": lambda: llm("tools", ["I add. ", ADD], ["It ", "is 3."], tools=[add], usage=USAGE),
    "calls": lambda: llm(
        "calls", ["Both. ", ADD, Call("add", {"a": 3, "b": 4}, id="c2")], ["Done."], tools=[add], usage=USAGE
    ),
    "calls_without_ids": lambda: llm("calls_without_ids", [Call("add", {"a": 1, "b": 2})], ["Done."], tools=[add]),
    "long": lambda: llm(
        "long", [Call("long_story", {"about": "once upon a time " * 30}, id="c1")], ["Told."], tools=[long_story]
    ),
    "streamed_arguments": lambda: llm(
        "streamed_arguments",
        [Streamed("long_story", [("$.about", "once "), ("$.about", "upon")], {"about": "once upon"})],
        ["Told."],
        tools=[long_story],
    ),
    "state": lambda: llm("state", [Call("remember", {}, id="c1")], ["Done."], tools=[remember]),
    "transfer": lambda: llm(
        "transfer",
        [Call("transfer_to_agent", {"agent_name": "w"}, id="c1")],
        sub_agents=[llm("w", ["Sun", "ny"], description="w")],
    ),
    "sequence": lambda: SequentialAgent(
        name="sequence",
        sub_agents=[
            llm("one", ["First, ", "this."], usage=USAGE, output_key="said"),
            llm("two", [ADD], ["Then that."], tools=[add]),
        ],
    ),
    "loop": lambda: LoopAgent(
        name="loop", max_iterations=3, sub_agents=[llm("again", ["Once ", "more."], usage=USAGE)]
    ),
    "loop_left": lambda: LoopAgent(
        name="loop_left",
        max_iterations=5,
        sub_agents=[
            llm("writer", ["Draft one."], ["Draft two."]),
            llm("critic", ["Not yet."], [Call("exit_loop", {}, id="c1")], tools=[exit_loop]),
        ],
    ),
    "parallel": lambda: ParallelAgent(
        name="parallel",
        sub_agents=[llm("left", ["L1 ", "L2 ", "L3"]), llm("right", ["R1 ", ADD], ["R2"], tools=[add])],
    ),
    "waiting": lambda: llm(
        "waiting",
        ["One moment. ", Call("file_claim", {}, id="c1")],
        ["Filed."],
        tools=[LongRunningFunctionTool(file_claim)],
    ),
    "asking": lambda: llm("asking", ["May I? ", ADD], ["Done."], tools=[FunctionTool(add, require_confirmation=True)]),
    "cut": lambda: LlmAgent(
        name="cut", model=Scripted(["Once upon"], finish_reason=types.FinishReason.MAX_TOKENS, error_code="MAX_TOKENS")
    ),
    "code": lambda: llm("code", ["Let me. ", CODE, OUTCOME, "So ", "one. ", CODE, OUTCOME, "Two."], usage=USAGE),
    "picture": lambda: llm("picture", ["Here: ", PICTURE, "nice?"]),
    "picture_tool": lambda: llm("picture_tool", [Call("show", {}, id="c1")], ["Nice."], tools=[show]),
    "agent_tool": lambda: llm(
        "agent_tool",
        ["I ask. ", Call("inner", {"request": "x"}, id="c1")],
        ["It said so."],
        tools=[AgentTool(llm("inner", ["Inner ", "words."]))],
    ),
    "agent_tool_whose_word_is_last": lambda: llm(
        "agent_tool_whose_word_is_last",
        [Call("inner", {"request": "x"}, id="c1")],
        tools=[AgentTool(llm("inner", ["Inner words."]), skip_summarization=True)],
    ),
    "schema": lambda: llm("schema", ['{"name":', ' "Paris"}'], output_schema=City, output_key="city"),
    "schema_and_tools": lambda: llm(
        "schema_and_tools",
        [ADD],
        [Call("set_model_response", {"name": "Paris"}, id="c2")],
        tools=[add],
        output_schema=City,
    ),
    "before_and_after": lambda: llm(
        "before_and_after", ["Words."], before_agent_callback=count, after_agent_callback=last_word
    ),
    "state_after": lambda: llm("state_after", ["Words."], after_agent_callback=count),
    "refused": lambda: llm("refused", ["Words."], before_model_callback=refuse),
    "replaced": lambda: llm("replaced", ["Soft ", "words."], after_model_callback=louder),
    "artifacts": lambda: llm("artifacts", ["I keep. ", Call("keep", {}, id="c1")], ["Kept."], tools=[keep]),
    "planner": lambda: llm(
        "planner",
        ["/*PLANNING*/ add /*ACTION*/ ", ADD],
        ["/*REASONING*/ so /*FINAL_ANSWER*/ 3"],
        tools=[add],
        planner=PlanReActPlanner(),
    ),
    "tool_callbacks": lambda: llm(
        "tool_callbacks",
        [
            Call("add", {"a": 1, "b": 2}, id="c1"),
            Call("long_story", {"about": "x"}, id="c2"),
            Call("fail", {}, id="c3"),
        ],
        ["Done."],
        tools=[add, long_story, fail],
        before_tool_callback=instead,
        after_tool_callback=doubled,
        on_tool_error_callback=overcome,
    ),
    "nested": lambda: LoopAgent(
        name="nested",
        max_iterations=2,
        sub_agents=[
            SequentialAgent(name="both", sub_agents=[llm("one", ["One. "]), llm("two", ["Two. "])]),
            llm("three", ["Three."], after_agent_callback=count),
        ],
    ),
    "custom": lambda: Custom(name="custom"),
    "nothing": lambda: llm("nothing", [""]),
    "workflow": lambda: Workflow(
        name="workflow", edges=[(START, begin, llm("one", ["It ", "is so."], usage=USAGE), shout)]
    ),
    "workflow_with_tools": lambda: Workflow(
        name="workflow_with_tools", edges=[(START, llm("one", ["I add. ", ADD], ["It is 3."], tools=[add]), begin)]
    ),
    "workflow_of_agents": lambda: Workflow(
        name="workflow_of_agents", edges=[(START, llm("one", ["First."]), llm("two", ["Sec", "ond."]))]
    ),
    "workflow_that_chooses": lambda: Workflow(
        name="workflow_that_chooses",
        edges=[(START, which), (which, {"left": llm("l", ["Left."]), "right": llm("r", ["Right."])})],
    ),
    "workflow_that_asks": lambda: Workflow(name="workflow_that_asks", edges=[(START, begin, asks, shout)]),
    "app": lambda: App(
        name="app",
        root_agent=llm("root", ["I add. ", ADD], ["It ", "is 3."], tools=[add], usage=USAGE),
        plugins=[Plugin(name="plugin")],
    ),
    "app_that_stops": lambda: App(
        name="app_that_stops", root_agent=llm("root", ["Words."]), plugins=[Stopper(name="stopper")]
    ),
    "app_that_mends": lambda: App(
        name="app_that_mends",
        root_agent=llm("root", [Call("fail", {}, id="c1")], [Raises(RuntimeError("down"))], tools=[fail]),
        plugins=[Mender(name="mender")],
    ),
    "app_of_a_workflow": lambda: App(
        name="app_of_a_workflow",
        root_agent=Workflow(name="flow", edges=[(START, begin, llm("one", ["So."]))]),
        plugins=[Plugin(name="plugin")],
    ),
}


class Loader(BaseAgentLoader):
    def load_agent(self, agent_name: str) -> Any:
        return AGENTS[agent_name.partition("__")[0]]()

    def list_agents(self) -> list[str]:
        return list(AGENTS)


@pytest.fixture(scope="module")
def adks_own() -> Any:
    """ADK's own server."""
    return get_fast_api_app(
        agents_dir=tempfile.mkdtemp(),
        agent_loader=Loader(),
        session_service_uri="memory://",
        artifact_service_uri="memory://",
        memory_service_uri="memory://",
        use_local_storage=False,
        web=False,
    )


def comparable(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without times, and with ids by their order."""
    ids: dict[str, int] = {}
    found = []
    for event in events:
        kept = {key: value for key, value in event.items() if key not in ("timestamp", "invocationId")}
        if event.get("partial"):
            kept.pop("usageMetadata", None)  # said of each piece by some models; the whole event has them all
        kept["id"] = ids.setdefault(event["id"], len(ids))
        found.append(kept)
    made: dict[str, str] = {}
    text = json.dumps(found)
    return json.loads(  # type: ignore[no-any-return]  # a list
        re.sub(r"adk-[0-9a-f-]{36}", lambda match: made.setdefault(match[0], f"adk-{len(made)}"), text)
    )


def by_author(app: str, events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Agents that speak at once do so in no order."""
    if app != "parallel":
        return {"": comparable(events)}
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        found.setdefault(event["author"], []).append(event)
    return {author: comparable(theirs) for author, theirs in found.items()}


@pytest.mark.parametrize("app", list(AGENTS))
async def test_the_same_agent_says_the_same(app: str, adks_own: Any, client_of: Callable[..., Any]):
    ours: httpx2.AsyncClient = await client_of(Runner(AGENTS[app]()))
    again: httpx2.AsyncClient = await client_of(Runner(AGENTS[app]()))
    whole: httpx2.AsyncClient = await client_of(Runner(AGENTS[app]()))
    transport = httpx2.ASGITransport(adks_own)
    content = {"role": "user", "parts": [{"text": "hi"}]}
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as theirs:
        for route, streaming, client in (("/run_sse", True, ours), ("/run_sse", False, again), ("/run", False, whole)):
            told = []
            id = f"{route[1:]}-{streaming}"
            for one, name in ((theirs, f"{app}__{id}".replace("-", "_")), (client, app)):  # its scripts run once
                made = await one.post(f"/apps/{name}/users/u/sessions/{id}")
                assert made.status_code == 200
                body = {"appName": name, "userId": "u", "sessionId": id, "newMessage": content, "streaming": streaming}
                answer = await one.post(route, json=body)
                assert answer.status_code == 200, answer.text
                said = (
                    answer.json() if route == "/run" else [json.loads(f.data) for f in frames(answer.content) if f.data]
                )
                shown = (await one.get(f"/apps/{name}/users/u/sessions/{id}")).json()
                told.append((by_author(app, said), by_author(app, shown["events"]), shown["state"]))
            assert told[1][0] == told[0][0], (route, streaming)
            assert told[1][1] == told[0][1], (route, "session")
            assert told[1][2] == told[0][2], (route, "state")


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: without_times(item) for key, item in value.items() if key not in ("createTime", "canonicalUri")
        } | ({"detail": ""} if "error" in value or "detail" in value else {})
    return [without_times(item) for item in value] if isinstance(value, list) else value


async def test_artifacts_have_their_routes(adks_own: Any, client_of: Callable[..., Any]):
    ours: httpx2.AsyncClient = await client_of(Runner(AGENTS["artifacts"]()))
    transport = httpx2.ASGITransport(adks_own)
    told = []
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as theirs:
        for client in (theirs, ours):
            at, said = "/apps/artifacts/users/u/sessions/a", []
            await client.post(at)
            content = {"role": "user", "parts": [{"text": "hi"}]}
            await client.post(
                "/run", json={"appName": "artifacts", "userId": "u", "sessionId": "a", "newMessage": content}
            )
            picture = {"inlineData": {"data": "iVBOR__-", "mimeType": "image/png"}}
            saved = {"filename": "pictures/one.png", "artifact": picture, "customMetadata": {"of": "me"}}
            said.append((await client.post(f"{at}/artifacts", json=saved)).json())
            for path in (
                "",
                "/note.txt",
                "/note.txt/versions",
                "/pictures/one.png",
                "/pictures/one.png?version=0",
                "/pictures/one.png/versions/latest",
                "/pictures/one.png/versions/0/metadata",
                "/pictures/one.png/versions/metadata",
                "/none",
            ):
                answer = await client.get(f"{at}/artifacts{path}")
                said.append([path, answer.status_code, answer.json() if answer.status_code == 200 else None])
            assert (await client.delete(f"{at}/artifacts/note.txt")).status_code == 200
            said.append((await client.get(f"{at}/artifacts")).json())
            told.append(without_times(said))
    assert told[1] == told[0]


async def test_a_session_shows_what_was_there_before_in_the_users_own_service(client_of: Callable[..., Any]):
    service = InMemorySessionService()
    made = await service.create_session(app_name="plain", user_id="u", session_id="s", state={"k": 1})
    was = types.Content(role="model", parts=[types.Part(text="Was.")])
    before = Event(author="plain", invocation_id="e", content=was)
    await service.append_event(made, before)
    client: httpx2.AsyncClient = await client_of(Runner(AGENTS["plain"](), app_name="plain", session_service=service))
    at = "/apps/plain/users/u/sessions/s"
    assert [event["id"] for event in (await client.get(at)).json()["events"]] == [before.id]
    content = {"role": "user", "parts": [{"text": "hi"}]}
    await client.post("/run", json={"appName": "plain", "userId": "u", "sessionId": "s", "newMessage": content})
    shown = (await client.get(at)).json()
    assert [event["author"] for event in shown["events"]] == ["plain", "user", "plain"]
    assert shown["state"] == {"k": 1}
