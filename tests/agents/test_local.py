"""The embedded model, really run. Slots are watched through llama.cpp's own `/slots`."""

import asyncio
import gc
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gapless.agents import local
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.embedded import SAMPLING, find_model
from gapless.agents.local import LocalModel, embedded_model
from gapless.config import RunConfig, StreamingMode
from gapless.errors import (
    ExtraMissing,
    InputInvalid,
    InputTooLarge,
    ModelFailed,
    ModelMissing,
    OutputInvalid,
)
from gapless.events import (
    AssistantMessage,
    CustomEvent,
    DataSource,
    ImagePart,
    Message,
    SystemMessage,
    TextPart,
    UserMessage,
)

GREEDY = {"temperature": 0, "seed": 1, "cache_prompt": False}
WAIT_S = 30.0
LONG_TEXT = " ".join(f"Item {i} costs {i * 7}." for i in range(170))  # about 1,800 tokens


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    assert find_model() is not None, "these tests run the real model: `gapless model install`"
    agent = embedded_model()
    yield agent
    asyncio.run(agent.aclose())


def context(
    message: str | list[Any],
    *,
    history: list[Message] | None = None,
    mode: StreamingMode = StreamingMode.SSE,
    **settings: Any,
) -> RunContext:
    async def interrupt(_: Any) -> Any:
        raise AssertionError("this agent asks nobody")

    return RunContext(
        run_id="r1",
        session_id="s1",
        user_id="u1",
        agent_name="model",
        content=message,
        messages=[*(history or []), UserMessage(id="m", content=message)],
        config=RunConfig(model_settings=settings, streaming_mode=mode),
        interrupt=interrupt,
    )


async def collect(model: LocalModel, ctx: RunContext) -> tuple[list[str], dict[str, Any]]:
    """The text deltas, and every custom event's value by its name (a notice's by its code)."""
    items: list[AgentItem] = [item async for item in model.run(ctx)]
    events = [item for item in items if isinstance(item, CustomEvent)]
    by_name = {e.value["code"] if e.name == "gapless.notice" else e.name: e.value for e in events}
    return [item for item in items if isinstance(item, str)], by_name


async def slots(model: LocalModel) -> list[dict[str, Any]]:
    service = (await asyncio.to_thread(local._acquire, model)).service
    async with service.request("GET", service.url.join("/slots"), None, run_id="r1") as response:
        return json.loads(await response.aread())  # type: ignore[no-any-return]


async def slots_when(model: LocalModel, ready: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    async with asyncio.timeout(WAIT_S):
        while not ready(state := await slots(model)):
            await asyncio.sleep(0.02)
    return state


def busy(state: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [slot for slot in state if slot["is_processing"]]


async def test_streams_word_by_word_and_counts_tokens(model: LocalModel) -> None:
    ctx = context("Write one sentence about the sea.", max_tokens=24, ignore_eos=True, **GREEDY)
    deltas, events = await collect(model, ctx)
    assert len(deltas) > 10
    assert events["gapless.finish"] == {"reason": "length"}
    assert "answer_cut" in events
    (usage,) = ctx.usage
    assert usage.output_tokens == 24
    assert usage.total_tokens == (usage.input_tokens or 0) + 24


async def test_the_same_seed_gives_the_same_answer(model: LocalModel) -> None:
    async def answer(**settings: Any) -> str:
        ctx = context("Tell me something.", max_tokens=20, cache_prompt=False, **settings)
        return "".join((await collect(model, ctx))[0])

    assert await answer(temperature=0) == await answer(temperature=0)
    warm = await answer(temperature=1.5, seed=7)
    assert warm == await answer(temperature=1.5, seed=7)
    assert warm != await answer(temperature=1.5, seed=8)


async def test_it_answers_as_its_maker_says_unless_a_client_asks_for_something_else(model: LocalModel) -> None:
    """The embedded model goes round in circles with llama.cpp's own settings; its repeats are counted elsewhere."""
    story = {"message": "Count: one, one, one, one,", "cache_prompt": False, "max_tokens": 40, **GREEDY}

    async def answer(agent: LocalModel, **settings: Any) -> str:
        return "".join((await collect(agent, context(**{**story, **settings})))[0])

    plain = LocalModel(model.path)
    try:
        assert await answer(model) == await answer(plain, **SAMPLING) != await answer(plain)
        assert await answer(model, repeat_penalty=1.0) == await answer(plain)
    finally:
        await plain.aclose()


async def test_a_short_answer_stops_by_itself(model: LocalModel) -> None:
    deltas, events = await collect(model, context("Hello!", max_tokens=40, stop=[" "], **GREEDY))
    assert deltas
    assert events == {"gapless.finish": {"reason": "stop"}}


async def test_blocking_mode_yields_the_answer_in_one_piece(model: LocalModel) -> None:
    settings = {"max_tokens": 12, **GREEDY}
    pieces, _ = await collect(model, context("Count.", mode=StreamingMode.NONE, **settings))
    streamed, _ = await collect(model, context("Count.", **settings))
    assert pieces == ["".join(streamed)]


async def test_runs_share_the_model(model: LocalModel) -> None:
    """Two streams at once, by two agents on one file: one server, which writes both, and neither waits for the other's
    end."""
    other = LocalModel(model.path)
    streams = [agent.run(context("A long story.", max_tokens=1500, ignore_eos=True)) for agent in (model, other)]
    for stream in (*streams, *reversed(streams)):
        await anext(stream)
    assert len(busy(await slots(model))) == 2
    assert len(local._servers) == 1
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    await other.aclose()
    await slots_when(model, lambda state: not busy(state))  # still loaded: the first agent uses it


async def test_leaving_in_mid_answer_stops_the_generation(model: LocalModel) -> None:
    stream = model.run(context("A long story.", max_tokens=1500, ignore_eos=True))
    for _ in range(3):
        await anext(stream)
    (slot,) = busy(await slots(model))
    await stream.aclose()  # type: ignore[attr-defined]
    state = await slots_when(model, lambda state: not busy(state))
    tokens_kept = next(s["n_prompt_tokens"] for s in state if s["id"] == slot["id"])
    assert tokens_kept < 1000


async def test_a_cancel_stops_the_reading_of_the_prompt_while_others_stream(model: LocalModel) -> None:
    other = model.run(context("A long story.", max_tokens=1900, ignore_eos=True))
    await anext(other)
    (others_slot,) = busy(await slots(model))

    task = asyncio.create_task(collect(model, context(LONG_TEXT, max_tokens=8, cache_prompt=False)))
    state = await slots_when(model, lambda state: len(busy(state)) == 2)
    (slot,) = [s for s in busy(state) if s["id"] != others_slot["id"]]
    assert slot["next_token"][0]["n_decoded"] == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    state = await slots_when(model, lambda state: len(busy(state)) == 1)
    (stopped,) = [s for s in state if s["id"] == slot["id"]]
    assert stopped["n_prompt_tokens"] < 1000  # of 1,800: it was not read to its end
    assert not stopped["is_processing"]
    await other.aclose()  # type: ignore[attr-defined]
    await slots_when(model, lambda state: not busy(state))


async def test_the_oldest_turns_go_first_and_it_is_said(model: LocalModel) -> None:
    history: list[Message] = [SystemMessage(id="s", content="Be brief.")]
    for i in range(8):
        history.append(UserMessage(id=f"u{i}", content=f"Question {i}: " + "why " * 200))
        history.append(AssistantMessage(id=f"a{i}", content="Because. " * 40))
    ctx = context("Hello", history=history, max_tokens=100, **GREEDY)
    server = await asyncio.to_thread(local._acquire, model)
    budget_tokens = server.window_tokens - 100
    chat, dropped = await local._fit(server.service, ctx, budget_tokens)
    assert await local._count(server.service, chat, "r1") <= budget_tokens
    assert dropped % 2 == 0
    assert 0 < dropped < 16
    assert chat[0] == {"role": "system", "content": "Be brief."}
    assert chat[1]["content"].startswith(f"Question {dropped // 2}: ")
    assert chat[-1] == {"role": "user", "content": "Hello"}

    run = model.run(ctx)
    notice = await anext(run)
    await run.aclose()  # type: ignore[attr-defined]
    assert isinstance(notice, CustomEvent)
    assert notice.value["code"] == "history_truncated"
    assert f"its {dropped} oldest messages were left out" in notice.value["message"]


async def test_a_message_over_the_window_is_an_error(model: LocalModel) -> None:
    with pytest.raises(InputTooLarge, match=r"The message alone is .* tokens long"):
        await collect(model, context(LONG_TEXT * 2))


async def test_the_history_is_remembered(model: LocalModel) -> None:
    """A failed run leaves two questions in a row: they reach the model as one message, nothing else is changed."""
    history: list[Message] = [
        UserMessage(id="1", content="My name is Ada."),
        AssistantMessage(id="2", content=""),
        UserMessage(id="3", content="Are you there?"),
        AssistantMessage(id="4", content="Hello Ada."),
    ]
    server = await asyncio.to_thread(local._acquire, model)
    chat, dropped = await local._fit(server.service, context("What is my name?", history=history), 1000)
    assert dropped == 0
    assert chat == [
        {"role": "user", "content": "My name is Ada.\n\nAre you there?"},
        {"role": "assistant", "content": "Hello Ada."},
        {"role": "user", "content": "What is my name?"},
    ]


async def test_media_is_left_out_and_it_is_said(model: LocalModel) -> None:
    image = ImagePart(source=DataSource(value="AAAA", mime_type="image/png"))
    deltas, events = await collect(model, context([TextPart(text="Hi"), image], max_tokens=2, ignore_eos=True))
    assert deltas
    assert "media_ignored" in events
    with pytest.raises(InputInvalid, match="no text in this message"):
        await collect(model, context([image]))


PERSON = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "schema": {
            "type": "object",
            "properties": {"name": {"enum": ["Ada", "Bob"]}, "old": {"type": "boolean"}},
            "required": ["name", "old"],
            "additionalProperties": False,
        },
    },
}


async def test_fills_a_json_schema(model: LocalModel) -> None:
    ctx = context("Describe a person in JSON.", response_format=PERSON, max_tokens=60, **GREEDY)
    deltas, events = await collect(model, ctx)
    assert json.loads("".join(deltas)) == ctx.result
    assert ctx.result["name"] in {"Ada", "Bob"}
    assert events["gapless.finish"] == {"reason": "stop"}


async def test_json_that_is_cut_is_a_typed_error(model: LocalModel) -> None:
    ctx = context("Describe a person in JSON.", response_format=PERSON, max_tokens=3, **GREEDY)
    with pytest.raises(OutputInvalid, match="it was cut; raise max_tokens"):
        await collect(model, ctx)
    assert ctx.result is None


async def test_settings_that_are_refused(model: LocalModel) -> None:
    with pytest.raises(InputInvalid, match=r"temperature.*model_settings"):
        await collect(model, context("Hi", temperature="hot"))


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def pattern(text: str) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": text}}}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"grammar": "root ::= " + "(" * 200_000 + '"a"' + ")" * 200_000}, "grammar has more than 1000 groups"),
        ({"grammar": "root ::= " + '( ")" ' * 100_000}, "grammar has more than 1000 groups"),
        ({"response_format": pattern("^" + "(" * 2000 + "a" + ")" * 2000 + "$")}, "response_format has more than 1000"),
        ({"response_format": nested(100)}, "response_format has more than 40 levels"),
        ({"json_schema": {"enum": ["x" * 100_000]}}, "json_schema is over 65536 bytes"),
    ],
)
async def test_what_would_take_the_process_along_is_refused(
    model: LocalModel, settings: dict[str, Any], says: str
) -> None:
    """llama.cpp reads it by recursion: it ended the process with a SIGSEGV."""
    with pytest.raises(InputInvalid, match=says):
        await collect(model, context("Hi", max_tokens=2, **settings))


async def test_the_server_answers_only_to_its_key(model: LocalModel) -> None:
    server = await asyncio.to_thread(local._acquire, model)
    url = str(server.service.url.join("/v1/chat/completions"))
    assert url.startswith("http://127.0.0.1:")
    async with httpx2.AsyncClient() as client:
        response = await client.post(url, headers={"Authorization": "Bearer guess"}, content=b"{}")
    assert response.status_code == 401


async def test_silent_on_the_terminal_and_unloaded_when_nobody_uses_it(
    model: LocalModel, capfd: pytest.CaptureFixture[str]
) -> None:
    await model.load()
    url = local._servers[model.path].service.url
    await model.aclose()
    assert local._servers == {}
    gc.collect()
    await collect(model, context("Hi", max_tokens=2))  # loads it again
    assert local._servers[model.path].service.url != url
    assert capfd.readouterr() == ("", "")


async def test_a_damaged_file(model: LocalModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged.gguf"
    with model.path.open("rb") as whole:
        damaged.write_bytes(whole.read(5_000_000))
    agent = LocalModel(damaged)
    with pytest.raises(ModelFailed, match=r"cannot load .*damaged\.gguf"):
        await collect(agent, context("Hi"))
    assert damaged.resolve() not in local._servers
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("hello")
    with pytest.raises(ModelFailed, match="is not a GGUF model"):
        LocalModel(text)
    with pytest.raises(ModelMissing, match=r"no model file .*gone\.gguf"):
        LocalModel(tmp_path / "gone.gguf")
    with pytest.raises(ModelFailed, match="Cannot read the model file"):
        LocalModel(tmp_path)


def test_without_weights_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "find_model", lambda: None)
    with pytest.raises(ModelMissing, match="gapless model install"):
        embedded_model()


async def test_without_llama_cpp_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "some.gguf"
    weights.write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'gapless\[local\]'"):
        await LocalModel(weights).load()
