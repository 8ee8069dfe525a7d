"""A typed output reaches those who read text alone, as its JSON, and once."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import httpx2
import pytest
from google.adk.agents import LlmAgent
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput

from gapless import Runner, create_app
from gapless.cli.terminal import Transcript
from gapless.testing import Output, ScriptedAgent, ToolCall, adk_model, pydantic_ai_model, words
from tests.support.sse import frames


class City(BaseModel):
    name: str
    people: int


BERN = {"name": "Bern", "people": 134000}
JSON = json.dumps(BERN, separators=(",", ":"))


def find(query: str) -> str:
    """Finds."""
    return "Bern"


class Silent:
    """Sets its result and says nothing."""

    name = "silent"

    def __init__(self, result: Any) -> None:
        self.result = result

    async def run(self, ctx: Any) -> Any:
        ctx.result = self.result
        nothing: tuple[str, ...] = ()
        for item in nothing:
            yield item


class Case(NamedTuple):
    name: str
    agent: Any
    text: str


FOUND = ToolCall("find", {"query": "capital"})
CASES = [
    Case("alone", ScriptedAgent(Output(BERN)), JSON),
    Case("after some words", ScriptedAgent(*words("I know it."), Output(BERN)), f"I know it.\n\n{JSON}"),
    Case("before the last words", ScriptedAgent(Output(BERN), *words("That is it.")), "That is it."),
    Case("of few words", Silent(False), "false"),
    Case("text", Silent("Bern"), "Bern"),
    Case("nothing", Silent(None), ""),
    Case("pydantic-ai", Agent(pydantic_ai_model(FOUND, Output(BERN)), output_type=City, tools=[find]), JSON),
    Case("pydantic-ai text", Agent(pydantic_ai_model(Output(BERN)), output_type=NativeOutput(City)), json.dumps(BERN)),
    Case("adk", LlmAgent(name="a", model=adk_model(Output(BERN)), output_schema=City), json.dumps(BERN)),
    Case(
        "adk with tools",
        LlmAgent(name="a", model=adk_model(FOUND, Output(BERN)), output_schema=City, tools=[find]),
        json.dumps(BERN),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_typed_output_on_the_wires_of_text(case: Case, capsys: pytest.CaptureFixture[str]):
    runner = Runner(case.agent)
    (name,) = runner.agents
    transport = httpx2.ASGITransport(create_app(runner))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        streamed = await http.post("/chat/stream", json={"query": "?"}, headers={"x-run-id": "r"})
        data = [json.loads(frame.data) for frame in frames(streamed.content) if frame.data.startswith("{")]
        assert "".join(item.get("text", "") for item in data) == case.text

        api = AsyncOpenAI(api_key="none", base_url="http://localhost/v1", http_client=http)  # type: ignore[arg-type]
        asked: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": "?"}]}
        whole = await api.chat.completions.create(**asked)
        assert (whole.choices[0].message.content or "") == case.text
        pieces = [chunk async for chunk in await api.chat.completions.create(**asked, stream=True)]
        assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == case.text
        response = await api.responses.create(model=name, input="?")
        assert response.output_text == case.text.replace("\n\n", "")  # another message there

    transcript = Transcript()
    async for event in (await runner.start("?")).events():
        transcript.show(event)
    await runner.close()
    assert capsys.readouterr().out == case.text.replace("\n\n", "\n")  # on a line of its own
