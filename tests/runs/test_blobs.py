"""Large parts of a run's events are kept beside its journal, and named in it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gapless import CustomEvent, Event, Limits, RunConfig, Runner, RunStatus, ToolCallResultEvent
from gapless.errors import BlobNotFound
from gapless.journals.contract import BLOB_PIECE_BYTES
from gapless.runs.blobs import FILE_INLINE_BYTES_MAX

SMALL = Limits(event_bytes_max=16_384, blob_bytes_max=3_000_000)


async def said(event: Event, *, limits: Limits = SMALL, store: str = "memory://", **config: Any) -> tuple[Any, Runner]:
    """What the journal has of an agent's one event."""

    async def agent(message: str) -> AsyncIterator[Event]:
        yield event

    runner = Runner(agent, limits=limits, store=store, config=RunConfig(**config))
    run = await runner.start("go", run_id="r")
    await run.wait()
    record = await runner.get_run("r")
    assert record.status is RunStatus.FINISHED, record.error
    events = [json.loads(one) async for page in runner.readers.pages("r") for one in page]
    return next(one for one in events if one["type"] in ("CUSTOM", "TOOL_CALL_RESULT")), runner


async def read(runner: Runner, blob_id: str, start: int = 0, stop: int | None = None) -> bytes:
    blob = await runner.readers.blobs.find("r", blob_id)
    stop = blob.size if stop is None else stop
    return b"".join([part async for part in runner.readers.blobs.read("r", blob_id, blob, start, stop)])


@pytest.mark.parametrize("as_text", [False, True], ids=["bytes", "base64"])
async def test_a_large_file_is_named_and_kept_whole(tmp_path: Path, as_text: bool) -> None:
    data = os.urandom(2 * BLOB_PIECE_BYTES + 7)
    value = {"mimeType": "image/png", "data": base64.b64encode(data).decode() if as_text else data, "name": "a.png"}
    event, runner = await said(CustomEvent(name="gapless.file", value=value), store=f"sqlite:///{tmp_path}/g.db")
    named = event["value"]
    assert "data" not in named
    assert (named["mimeType"], named["size"], named["name"]) == ("image/png", len(data), "a.png")
    assert named["url"] == f"/runs/r/blobs/{named['blob']}"
    await runner.close()
    async with Runner(lambda message: message, store=f"sqlite:///{tmp_path}/g.db") as later:
        assert await read(later, named["blob"]) == data
        edge = BLOB_PIECE_BYTES
        assert await read(later, named["blob"], edge - 3, edge + 3) == data[edge - 3 : edge + 3]
        with pytest.raises(BlobNotFound):
            await later.readers.blobs.find("r", "0" * 32)


async def test_a_small_file_stays_in_its_event() -> None:
    event, runner = await said(CustomEvent(name="gapless.file", value={"mimeType": "a/b", "data": b"PNG"}))
    assert event["value"] == {"mimeType": "a/b", "data": "UE5H"}
    await runner.close()


async def test_a_file_that_fits_its_event_is_kept_aside_all_the_same() -> None:
    """Every follower would be sent it again and again."""
    value = {"mimeType": "a/b", "data": bytes(FILE_INLINE_BYTES_MAX + 1)}
    event, runner = await said(CustomEvent(name="gapless.file", value=value), limits=Limits())
    assert event["value"]["size"] == FILE_INLINE_BYTES_MAX + 1
    await runner.close()


async def test_a_large_result_is_cut_and_kept_whole() -> None:
    whole = "é" * 300_000
    event, runner = await said(ToolCallResultEvent(message_id="m", tool_call_id="c", content=whole))
    shown, _, note = event["content"].partition("\n… ")
    assert whole.startswith(shown)
    assert len(shown) > 1000
    assert note.startswith(f"{len(whole) - len(shown)} more characters")
    blob_id = note.rpartition("/")[2]
    assert (await read(runner, blob_id)).decode() == whole
    assert (await runner.readers.blobs.find("r", blob_id)).mime_type.startswith("text/plain")
    await runner.close()


async def test_a_large_value_of_an_agents_own_is_kept_as_json() -> None:
    value = {"rows": list(range(10_000))}
    event, runner = await said(CustomEvent(name="table", value=value))
    assert event["value"]["mimeType"] == "application/json"
    assert json.loads(await read(runner, event["value"]["blob"])) == value
    await runner.close()


@pytest.mark.parametrize("name", ["gapless.file", "table"])
async def test_what_is_too_large_to_be_kept_is_left_out_with_a_notice(name: str) -> None:
    data = "A" * 4_000_004
    event, runner = await said(CustomEvent(name=name, value={"mimeType": "a/b", "data": data}), limits=SMALL)
    assert event["name"] == "gapless.notice"
    assert event["value"]["code"] == "blob_too_large"
    assert "blob_bytes_max=3000000" in event["value"]["message"]
    await runner.close()


async def test_a_result_that_is_too_large_to_be_kept_is_cut_and_says_so() -> None:
    event, runner = await said(ToolCallResultEvent(message_id="m", tool_call_id="c", content="x" * 3_000_001))
    assert event["content"].endswith("more characters, which the model got, are left out here")
    await runner.close()


async def test_addresses_begin_where_the_operator_says() -> None:
    value = {"mimeType": "a/b", "data": bytes(100_000)}
    event, runner = await said(CustomEvent(name="gapless.file", value=value), public_url="https://a.example/agents/")
    assert event["value"]["url"] == f"https://a.example/agents/runs/r/blobs/{event['value']['blob']}"
    await runner.close()


async def test_blobs_count_as_the_journals_bytes() -> None:
    async def agent(message: str) -> AsyncIterator[Event]:
        for number in range(10):
            yield CustomEvent(name="gapless.file", value={"mimeType": "a/b", "data": bytes([number]) * 200_000})

    async with Runner(agent, limits=Limits(journal_bytes_max=1_000_000)) as runner:
        run = await runner.start("go", run_id="r")
        await run.wait()
        error = (await runner.get_run("r")).error
        assert error is not None
        assert error["code"] == "run_limit"


async def test_data_that_is_no_base64_fails_the_run_and_says_why() -> None:
    async def agent(message: str) -> AsyncIterator[Event]:
        yield CustomEvent(name="gapless.file", value={"mimeType": "a/b", "data": "?" * 100_000})

    async with Runner(agent) as runner:
        run = await runner.start("go", run_id="r")
        await run.wait()
        error = (await runner.get_run("r")).error
        assert error is not None
        assert error["code"] == "agent_invalid"
        assert "base64" in error["message"]


@pytest.mark.parametrize(
    "value",
    [
        {"mimeType": "text/plain", "data": 5},
        {"mimeType": "text/plain", "data": ["a"]},
        {"mimeType": "text/plain", "url": 5},
        {"mimeType": 5, "data": b"a"},
        {"mimeType": "text/plain"},
        {},
        None,
        b"a",
    ],
)
async def test_a_file_that_no_client_could_show_fails_the_run_and_says_what_one_is(value: Any) -> None:
    async def agent(message: str) -> AsyncIterator[Event]:
        yield CustomEvent(name="gapless.file", value=value)

    async with Runner(agent) as runner:
        record = await (await runner.start("go")).wait()
        assert record.error is not None
        assert record.error["code"] == "agent_invalid"
        assert "bytes or base64" in record.error["message"]


@pytest.mark.parametrize("where", [{"data": b"a"}, {"data": "YQ=="}, {"url": "https://a.example/a"}])
async def test_a_file_without_a_type_is_of_an_unknown_one(where: dict[str, Any]) -> None:
    event, _ = await said(CustomEvent(name="gapless.file", value=where))
    assert event["value"]["mimeType"] == "application/octet-stream"
