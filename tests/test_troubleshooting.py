"""What goes wrong with streaming, and what Gapless does about it: docs/agents.md, "When it does not work"."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from google.adk.agents import LlmAgent
from pydantic_ai import Agent
from pydantic_ai import messages as m
from pydantic_ai.models.function import AgentInfo, FunctionModel
from typer.testing import CliRunner

from gapless import GaplessError, RunConfig, Runner, StreamingMode, StreamingResponseAggregator, create_app
from gapless.agents import adapt
from gapless.cli import app as command_line
from gapless.errors import ExtraMissing, ModelFailed, StreamingUnavailable, UsageError
from gapless.events import CustomEvent, TextMessageContentEvent
from gapless.testing import Chunk, Gate, ScriptedAgent, ToolCall, adk_model, pydantic_ai_model, serving, words
from tests.support.adk import Scripted

TEXT = "An answer of seven words, in pieces."


def pydantic_ai(*chunks: Chunk) -> object:
    return Agent(pydantic_ai_model(*chunks))


def adk(*chunks: Chunk) -> object:
    return LlmAgent(name="scripted", model=adk_model(*chunks))


both = pytest.mark.parametrize("framework", [pydantic_ai, adk])


# --------------------------------------------------------------------------------------------------- nothing streams


@both
async def test_nothing_streams_because_the_mode_is_not_streaming(framework: Any):
    async with Runner(framework(*words(TEXT))) as runner:
        for mode, pieces in ((StreamingMode.NONE, 1), (StreamingMode.SSE, 7)):
            response = await (await runner.start("go", config=RunConfig(streaming_mode=mode))).collect()
            assert (len(response.chunks), response.text) == (pieces, TEXT)


@both
async def test_streaming_is_the_default(framework: Any):
    async with Runner(framework(*words(TEXT))) as runner:
        assert len((await (await runner.start("go")).collect()).chunks) == 7


def blocking_model(messages: list[m.ModelMessage], info: AgentInfo) -> m.ModelResponse:
    return m.ModelResponse(parts=[m.TextPart(TEXT)])


@pytest.mark.parametrize(
    "agent",
    [Agent(FunctionModel(blocking_model)), LlmAgent(name="old", model=Scripted([TEXT], refuses_streams=True))],
    ids=["pydantic_ai", "adk"],
)
async def test_nothing_streams_because_the_model_cannot_and_the_stream_says_so(agent: object):
    async with Runner(agent) as runner:
        events = [event async for event in runner.run_async("go")]
        notices = [e.value["code"] for e in events if isinstance(e, CustomEvent) and e.name == "gapless.notice"]
        assert notices == ["streaming_unavailable"]
        assert "".join(e.delta for e in events if isinstance(e, TextMessageContentEvent)) == TEXT
        with pytest.raises(StreamingUnavailable):
            await (await runner.start("go", config=RunConfig(fallback=False))).collect()


def test_nothing_streams_because_the_agent_returns_the_whole_and_the_doctor_says_so(tmp_path: Path):
    (tmp_path / "mine.py").write_text("def agent(message):\n    return 'all of it at once'\n")
    store = f"sqlite:///{tmp_path}/gapless.db"
    said = CliRunner().invoke(command_line, ["doctor", f"{tmp_path}/mine.py:agent", "--store", store])
    assert "nothing streams" in said.output
    assert "yield each piece" in said.output
    assert said.exit_code == 1


def test_nothing_streams_because_a_proxy_buffers_so_it_is_told_not_to():
    with serving(create_app(Runner(ScriptedAgent("hi")))) as url:
        headers = httpx2.get(url + "/chat/stream?query=go").headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"


# ----------------------------------------------------------------------------------------------------- memory grows

PIECES = 5_000
PIECE = "a" * 400


async def peak_bytes(tmp_path: Path, *, stalled: int) -> int:
    """The most memory that a long run takes, with followers that read one piece and then stall."""
    gate = Gate()

    async def agent(message: str) -> AsyncIterator[str]:
        yield "first"
        await gate.pass_through()
        for _ in range(PIECES):
            yield PIECE

    async with Runner(agent, store=f"sqlite:///{tmp_path}/{stalled}.db") as runner:
        run = await runner.start("go")
        followers = [run.text() for _ in range(stalled)]
        for follower in followers:
            await anext(follower)
        tracemalloc.start()
        gate.open()
        async for piece in run.text():
            del piece  # shown and let go
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert [[piece async for piece in follower][-1] for follower in followers] == [PIECE] * stalled
        for follower in followers:
            await follower.aclose()  # type: ignore[attr-defined]  # an async generator
    return peak


async def test_memory_does_not_grow_with_readers_that_stall(tmp_path: Path):
    alone = await peak_bytes(tmp_path, stalled=0)
    with_stalled = await peak_bytes(tmp_path, stalled=20)
    assert with_stalled < alone + 20 * 50_000 < alone + 20 * PIECES * len(PIECE)


# ------------------------------------------------------------------------------------------------------ slow chunks


async def test_slow_chunks_settings_and_a_faster_model_reach_the_agent():
    asked: list[Any] = []

    async def stream(messages: list[m.ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        asked.append(info.model_settings)
        yield "short"

    async with Runner(Agent(FunctionModel(stream_function=stream))) as runner:
        await (await runner.start("go", config=RunConfig(model_settings={"max_tokens": 9}))).collect()
        other = RunConfig(model_settings={"model": "test"})  # a model's name, or a model
        assert (await (await runner.start("go", config=other)).collect()).text == "success (no tool calls)"
    assert asked[0]["max_tokens"] == 9
    model = Scripted(["short"])
    async with Runner(LlmAgent(name="a", model=model)) as runner:
        await (await runner.start("go", config=RunConfig(model_settings={"max_tokens": 9}))).collect()
    assert model.configs[0].max_output_tokens == 9


async def test_slow_chunks_a_reader_that_is_slow_does_not_slow_the_agent():
    async with Runner(ScriptedAgent(*words("word " * 200))) as runner:
        run = await runner.start("go")
        pieces = run.text()
        await anext(pieces)  # and no more, until the run has ended
        assert (await run.wait()).status.value == "finished"
        assert "".join([piece async for piece in pieces]) == "word " * 199


# --------------------------------------------------------------------------------------------------- missing classes


async def test_missing_classes_the_names_of_the_tutorials_are_here():
    config = RunConfig(streaming_mode=StreamingMode.OFF)
    assert StreamingMode.OFF is StreamingMode.NONE  # type: ignore[comparison-overlap]  # one member of two names
    assert StreamingMode("off") is StreamingMode.NONE

    class Session:
        id = "s1"

    aggregator = StreamingResponseAggregator()
    async with Runner() as runner:  # the agent comes with the question
        async for event in runner.run_async("go", agent=ScriptedAgent(TEXT), session=Session(), run_config=config):
            aggregator.add(event)
    assert aggregator.get_response().content.parts[0].text == TEXT


async def test_missing_methods_the_old_names_of_a_stream_work():
    async with Runner(ScriptedAgent(TEXT)) as runner, runner.run_stream("go") as stream:
        assert [text async for text in stream.stream()][-1] == TEXT
        assert await stream.get_data() == TEXT
        assert [text async for text in stream.stream_text()] == [TEXT], "read as often as wanted"


@pytest.mark.parametrize(
    ("raised", "advice"),
    [
        (ModuleNotFoundError("No module named 'google.adk'", name="google.adk"), "pip install 'gapless[adk]'"),
        (ImportError("cannot import name 'App'", name="google.adk.apps"), "pip install --upgrade 'gapless[adk]'"),
    ],
)
def test_missing_classes_of_a_framework_name_the_command(
    raised: ImportError, advice: str, monkeypatch: pytest.MonkeyPatch
):
    agent = LlmAgent(name="a", model="gemini-2.5-flash")

    class Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise raised

    monkeypatch.setitem(sys.modules, "gapless.agents.adk", Broken("gapless.agents.adk"))
    with pytest.raises(ExtraMissing, match=advice.replace("[", r"\[").replace("]", r"\]")):
        adapt(agent)


# ----------------------------------------------------------------------------------------------- stumbling blocks


@pytest.mark.parametrize(
    "agent",
    [Agent("google:gemini-2.5-flash", defer_model_check=True), LlmAgent(name="a", model="gemini-2.5-flash")],
    ids=["pydantic_ai", "adk"],
)
async def test_no_key_says_which(agent: object, monkeypatch: pytest.MonkeyPatch):
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    async with Runner(agent) as runner:
        with pytest.raises(ModelFailed, match="key"):
            await (await runner.start("go")).collect()


async def test_a_blocking_call_in_async_code_says_what_to_use():
    async with Runner(ScriptedAgent(TEXT)) as runner:
        with pytest.raises(UsageError, match="run_async"):
            next(iter(runner.run("go")))


async def test_a_stream_without_async_with_says_so():
    stream = Runner(ScriptedAgent(TEXT)).run_stream("go")
    with pytest.raises(RuntimeError, match="async with"):
        await stream.get_output()


@both
async def test_a_tool_runs_once(framework: Any):
    calls = []

    def count() -> str:
        """Counts."""
        calls.append(1)
        return "counted"

    agent = framework(ToolCall("count"), "Done.")
    if isinstance(agent, LlmAgent):
        agent.tools = [count]
    else:
        agent.tool_plain(count)
    async with Runner(agent) as runner:
        assert (await (await runner.start("go")).collect()).text == "Done."
    assert calls == [1]


async def test_an_error_in_mid_answer_reaches_whoever_reads():
    async def agent(message: str) -> AsyncIterator[str]:
        yield "so far "
        raise OSError("gone")

    async with Runner(agent) as runner:
        run = await runner.start("go")
        pieces = run.text()
        assert await anext(pieces) == "so far "
        with pytest.raises(GaplessError) as caught:
            await anext(pieces)
        assert caught.value.code == "agent_failed"
