"""ADK's own spelling over durable runs: programs as ADK's tutorials write them, with their imports changed."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import textwrap
from typing import Any

import httpx2
import pytest
from google.adk.agents.run_config import RunConfig as ADKRunConfig
from google.adk.agents.run_config import StreamingMode as ADKStreamingMode
from google.adk.models import LLMRegistry
from google.adk.sessions import InMemorySessionService
from google.genai import types

import gapless
from gapless import adk
from gapless.records import RunStatus
from tests.support.adk import Call, Scripted, contents

IMPORTS = """
from gapless.adk import Agent, Runner, RunConfig, Session, StreamingMode, StreamingResponseAggregator
from google.genai import types
import asyncio, json, sys
from typing import *
query = "How do streams work?"
agent = Agent(model="gemini-2.0-flash", name="assistant", instruction="Answer.")
sse = RunConfig(streaming_mode=StreamingMode.SSE)
"""

PROGRAMS: dict[str, str] = {
    "first parts": """
        async def stream_response(query: str):
            runner = Runner()
            async for event in runner.run_async(query, agent=agent, run_config=sse):
                if event.content and event.content.parts:
                    text = event.content.parts[0].text
                    print(text, end='', flush=True)
        await stream_response(query)
    """,
    "both orders, iterated and awaited": """
        runner = Runner()
        async for event in runner.run_async(query, agent, run_config=RunConfig(streaming_mode=StreamingMode.SSE)):
            assert event.author == "assistant"
        result = await runner.run_async(query, agent, run_config=RunConfig(streaming_mode=StreamingMode.OFF))
        print(result.content.parts[0].text)
    """,
    "awaited while it streams": """
        result = await Runner().run_async(query, agent=agent)
        print(result.content.parts[0].text)
    """,
    "a chat": """
        class Chat:
            def __init__(self):
                self.agent = Agent(
                    model='gemini-2.0-flash',
                    name='chat_assistant',
                    generate_content_config=types.GenerateContentConfig(temperature=0.7, max_output_tokens=2048),
                )
                self.session = Session()
                self.run_config = RunConfig(streaming_mode=StreamingMode.SSE)
                self.runner = Runner()

            async def stream_response(self, message: str) -> AsyncIterator[str]:
                async for event in self.runner.run_async(
                    message, agent=self.agent, session=self.session, run_config=self.run_config
                ):
                    if event.content and event.content.parts:
                        for part in event.content.parts:
                            if part.text:
                                yield part.text

        chat = Chat()
        async for chunk in chat.stream_response("Hello!"):
            pass
        async for chunk in chat.stream_response("And now?"):
            print(chunk, end='', flush=True)
    """,
    "chunks": """
        chunks = []
        async for event in Runner().run_async(query, agent=agent, run_config=sse):
            if event.content and event.content.parts:
                chunks.append(event.content.parts[0].text)
        assert len(chunks) > 1
        print(''.join(chunks))
    """,
    "a timeout": """
        try:
            async with asyncio.timeout(10):
                async for event in Runner().run_async(query, agent=agent):
                    if event.content and event.content.parts:
                        print(event.content.parts[0].text, end='', flush=True)
        except asyncio.TimeoutError:
            print("[Timeout]")
    """,
    "an aggregator": """
        aggregator = StreamingResponseAggregator()
        async for event in Runner().run_async(query, agent=agent, run_config=sse):
            aggregator.add(event)
        print(aggregator.get_response().content.parts[0].text)
    """,
    "no event loop": """
        new_message = types.Content(parts=[types.Part(text="Hello, how are you?")])
        runner = Runner(app_name="my-app", agent=agent, session_service=InMemorySessionService())
        def blocking():
            for event in runner.run(
                user_id="user-123",
                session_id="session-456",
                new_message=new_message,
                run_config=RunConfig(streaming_mode=StreamingMode.SSE, response_modalities=["TEXT"]),
            ):
                if event.content and event.content.parts:
                    for part in event.content.parts:
                        if part.text:
                            print(part.text, end="", flush=True)
        await asyncio.to_thread(blocking)
    """,
    "each event has a first part": """
        async for event in Runner().run_async(query, agent=agent, run_config=sse):
            chunk = event.content.parts[0].text
            print(chunk, end='', flush=True)
    """,
    "several outputs": """
        kept = []
        def console_output(chunk: str):
            print(chunk, end='', flush=True)
        async def list_output(chunk: str):
            kept.append(chunk)
        async def stream_to_multiple(query: str, agent: Agent, outputs: List[Callable[[str], Any]]):
            async for event in Runner().run_async(query, agent=agent, run_config=sse):
                if event.content and event.content.parts:
                    for output_fn in outputs:
                        done = output_fn(event.content.parts[0].text)
                        if asyncio.iscoroutine(done):
                            await done
        await stream_to_multiple(query, agent, outputs=[console_output, list_output])
        assert ''.join(kept) == "They flow on."
    """,
    "a dot every so many chunks": """
        chunk_count = 0
        async for event in Runner().run_async(query, agent=agent, run_config=sse):
            if event.content and event.content.parts:
                print(event.content.parts[0].text, end='', flush=True)
                chunk_count += 1
                if chunk_count % 2 == 0:
                    sys.stderr.write('.')
                    sys.stderr.flush()
    """,
    "a session that is made first": """
        session_service = InMemorySessionService()
        runner = Runner(app_name="streaming_demo", agent=agent, session_service=session_service)
        session = await session_service.create_session(app_name="streaming_demo", user_id="demo_user")
        async for event in runner.run_async(
            user_id="demo_user",
            session_id=session.id,
            new_message=types.Content(role="user", parts=[types.Part(text=query)]),
            run_config=sse,
        ):
            if event.content and event.content.parts:
                for part in event.content.parts:
                    if part.text:
                        print(part.text, end='', flush=True)
    """,
    "a name is not needed": """
        agent = Agent(model='gemini-2.0-flash')
        async for event in Runner().run_async("Count to 10", agent=agent):
            if event.content and event.content.parts:
                print(event.content.parts[0].text, end='')
    """,
}


class Models:
    """What `model="gemini-…"` means here."""

    def __init__(self) -> None:
        self.made: list[Scripted] = []

    def __call__(self, name: str) -> Scripted:
        self.made.append(Scripted(["They ", "flow ", "on."]))
        return self.made[-1]


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    found = Models()
    monkeypatch.setattr(LLMRegistry, "new_llm", found)
    return found


async def run_program(program: str, **names: Any) -> str:
    """What a program prints that awaits at its top, as a notebook's cell does."""
    code = compile(IMPORTS + textwrap.dedent(program), "program", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        running = eval(code, {"InMemorySessionService": InMemorySessionService, **names})
        if inspect.iscoroutine(running):
            await running
    return printed.getvalue()


@pytest.mark.parametrize("program", list(PROGRAMS))
async def test_a_program_as_it_is_spelled(program: str):
    assert (await run_program(PROGRAMS[program])).strip() == "They flow on.", "and each text once"


async def test_a_session_keeps_the_context(models: Models):
    await run_program(PROGRAMS["a chat"])
    asked = [contents(request) for model in models.made for request in model.requests]
    assert asked[-1] == [("user", "Hello!"), ("model", "They flow on."), ("user", "And now?")]
    assert models.made[0].configs[0].temperature == 0.7


async def test_an_endpoint_of_fastapi():
    program = """
        from fastapi import FastAPI
        from fastapi.responses import StreamingResponse

        app = FastAPI()
        runner = Runner()

        @app.post("/chat/{user_id}")
        async def chat_sse(user_id: str, message: str):
            async def event_stream():
                async for event in runner.run_async(
                    agent=agent, user_id=user_id, session_id=f"{user_id}-session",
                    new_message=types.Content(parts=[types.Part(text=message)]),
                ):
                    yield f"data: {event.model_dump_json(exclude_none=True, by_alias=True)}\\n\\n"
            return StreamingResponse(event_stream(), media_type="text/event-stream")
        got.append(app)
    """
    got: list[Any] = []
    await run_program(program, got=got)
    transport = httpx2.ASGITransport(got[0])
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post("/chat/ada", params={"message": "hi"})
    assert next(line for line in answer.text.splitlines() if line).startswith(
        'data: {"content":{"parts":[{"text":"They '
    )
    assert '"partial":true' in answer.text
    assert '"finishReason":"STOP"' in answer.text


async def test_leaving_the_loop_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    model = Scripted(["One ", "two ", "three."], hold_at=2)
    runner = adk.Runner(adk.Agent(model=model))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as patience:
            async for _ in runner.run_async("count", session_id="s"):
                patience.reschedule(0.0)  # over as soon as something was said
    (record,) = await runner.list_runs()
    assert (await (await runner.attach(record.id)).wait()).status is RunStatus.CANCELLED
    assert model.running == 0
    await runner.close()


async def test_calls_are_whole_and_text_comes_once():
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    model = Scripted(["I add. ", Call("add", {"a": 2, "b": 3}, id="c")], ["It ", "is 5."])
    runner = adk.Runner(adk.Agent(name="adder", model=model, tools=[add]))
    events = [event async for event in runner.run_async("add")]
    assert "".join(p.text for e in events if e.content for p in e.content.parts if p.text) == "I add. It is 5."
    assert [call.args for e in events if not e.partial for call in e.get_function_calls()] == [{"a": 2, "b": 3}]
    assert [one.response for e in events for one in e.get_function_responses()] == [{"result": 5}]
    whole = await runner.run_async("add", run_config=adk.RunConfig(streaming_mode=adk.StreamingMode.OFF))
    assert whole is not None
    assert whole.content is not None
    assert whole.content.parts is not None
    assert whole.content.parts[0].text == "It is 5."
    await runner.close()


async def test_adks_own_config_and_content_are_taken_anywhere():
    model = Scripted(["Yes."])
    async with gapless.Runner(adk.Agent(model=model)) as runner:
        config = ADKRunConfig(streaming_mode=ADKStreamingMode.NONE, max_llm_calls=3, response_modalities=["TEXT"])
        run = await runner.start(types.Content(parts=[types.Part(text="so?")]), config=config)
        record = await run.wait()
        assert record.config is not None
        assert record.config.streaming_mode is gapless.StreamingMode.NONE
        assert (record.config.max_llm_calls, record.config.response_modalities) == (3, ["TEXT"])
        with pytest.raises(gapless.GaplessError, match="RunConfig"):
            await runner.start("so?", config={"streaming_mode": "sse"})  # type: ignore[arg-type]  # is what is tested


async def test_a_tools_own_exception_is_what_a_program_catches():
    def flaky() -> str:
        """Fails."""
        raise ValueError("It is broken.")

    runner = adk.Runner(adk.Agent(model=Scripted([Call("flaky", id="c")]), tools=[flaky]))
    with pytest.raises(ValueError, match="It is broken"):
        async for _ in runner.run_async("go"):
            pass
    with pytest.raises(ValueError, match="It is broken"):
        await runner.run_async("go")
    with pytest.raises(ValueError, match="It is broken"):
        await asyncio.to_thread(lambda: [*adk.Runner(runner.agents["agent"]).run("go")])
    await runner.close()
