"""An attachment that a model cannot take fails its turn; the turns after it are told that it was left out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.sessions import InMemorySessionService
from google.genai import types
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import messages as m
from pydantic_ai.models.function import FunctionModel

from gapless import Runner
from gapless.agents.base import RunContext
from gapless.attachments import LEFT_OUT, mark_left_out
from gapless.errors import GaplessError, ModelFailed, WorkerLost
from gapless.events import DataSource, ImagePart, TextPart, UrlSource, UserMessage
from tests.support.endpoints import HELLO
from tests.support.upstream import Reply, upstream

DATA = "AAAABBBB"
BAD = {
    "data": ImagePart(source=DataSource(value=DATA, mime_type="image/x-bad")),
    "url": ImagePart(source=UrlSource(value="https://host/bad.png", mime_type="image/x-bad")),
}
SAYS = "An attachment (image/x-bad) was left out here"


class ModelRefusal(Exception):
    """What a provider's client raises for a request that its model cannot take."""


class Careful:
    """Stands for a model: it refuses a request with a bad picture in it, whichever turn that came with."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, request: str) -> str:
        self.asked.append(request)
        if "bad.png" in request or DATA in request or "x00\\x00\\x00" in request:
            raise ModelRefusal("cannot take this picture")
        return "fine"


def function_agent(careful: Careful) -> object:
    async def agent(message: str, ctx: RunContext) -> AsyncIterator[str]:
        yield "Looking. "
        yield careful.answer(repr([one.content for one in ctx.messages if isinstance(one, UserMessage)]))

    return agent


def pydantic_agent(careful: Careful) -> object:
    def respond(messages: list[m.ModelMessage], info: Any) -> m.ModelResponse:
        shown = [part.content for one in messages for part in one.parts if isinstance(part, m.UserPromptPart)]
        return m.ModelResponse(parts=[m.TextPart(careful.answer(repr(shown)))])

    return PydanticAgent(FunctionModel(respond))


class Model(BaseLlm):
    careful: Any

    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        said = self.careful.answer(repr([content.parts for content in llm_request.contents]))
        yield LlmResponse(content=types.Content(role="model", parts=[types.Part(text=said)]))


def adk_agent(careful: Careful) -> object:
    return LlmAgent(name="adk", model=Model(model="m", careful=careful))


AGENTS: dict[str, Callable[[Careful], object]] = {
    "function": function_agent,
    "pydantic": pydantic_agent,
    "adk": adk_agent,
    "adk with its own sessions": adk_agent,
}


@pytest.mark.parametrize("picture", BAD)
@pytest.mark.parametrize("kind", AGENTS)
async def test_a_conversation_goes_on_after_an_attachment_that_failed_its_turn(kind: str, picture: str):
    careful = Careful()
    options: dict[str, Any] = {"session_service": InMemorySessionService()} if "own" in kind else {}
    async with Runner(AGENTS[kind](careful), **options) as runner:

        async def ask(message: Any) -> str:
            run = await runner.start(message, session_id="s")
            await run.wait()
            return (await run.record()).status.value

        assert await ask("hello") == "finished"
        assert await ask([TextPart(text="what is this?"), BAD[picture]]) == "failed"
        for question in ("and now?", "still there?"):
            assert await ask(question) == "finished"
            assert SAYS in careful.asked[-1]
            assert "what is this?" in careful.asked[-1]
            assert question in careful.asked[-1]
        assert await ask([TextPart(text="again"), BAD[picture]]) == "failed"  # it is tried where it is sent again
        assert await ask("and then?") == "finished"
        shown = (await runner.messages("s"))[2]
        assert isinstance(shown, UserMessage)
        assert shown.content == [TextPart(text="what is this?"), BAD[picture]]  # as the user has sent it


async def test_an_endpoint_is_not_sent_what_it_refused():
    refusal = Reply(b'{"error": {"message": "cannot read this image"}}', status=400, content_type="application/json")
    async with upstream(refusal, Reply(HELLO)) as service, Runner(f"{service.url}/v1?model=m") as runner:
        bad = await runner.start([TextPart(text="what is this?"), BAD["data"]], session_id="s")
        await bad.wait()
        good = await runner.start("and now?", session_id="s")
        assert (await good.collect()).text == "Hello"
        sent = service.requests[-1].body["messages"]
    assert sent[0]["content"][1]["text"].startswith(f"[{SAYS}: the turn that it came with failed.")
    assert "cannot read this image" in sent[0]["content"][1]["text"]


async def test_a_history_that_the_client_keeps_is_cleared_of_it_too():
    careful = Careful()
    async with Runner(function_agent(careful)) as runner:
        asked = UserMessage(id="m1", content=[TextPart(text="what is this?"), BAD["url"]])
        await (await runner.start(asked, session_id="s")).wait()
        run = await runner.start("and now?", session_id="s", messages=[asked])
        await run.wait()
        assert (await run.record()).status.value == "finished"
    assert SAYS in careful.asked[-1]


@pytest.mark.parametrize(
    ("failure", "answered", "marked"),
    [
        (ModelFailed("no"), False, True),
        (ModelFailed("no"), True, False),
        (ModelFailed("busy", retry_after_s=3), False, False),
        (GaplessError("raised", code="agent_failed"), True, True),
        (WorkerLost("gone"), False, False),
    ],
)
def test_only_a_failure_that_may_be_the_attachments_leaves_it_out(failure: GaplessError, answered: bool, marked: bool):
    message = UserMessage(id="m", content=[BAD["url"]])
    assert (LEFT_OUT in (mark_left_out(message, failure, answered=answered).metadata or {})) is marked
    plain = UserMessage(id="m", content="text")
    assert mark_left_out(plain, failure, answered=answered) is plain
