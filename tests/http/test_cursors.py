"""Where a client goes on, and cursors that are none."""

from __future__ import annotations

import httpx2
import pytest

from tests.support.over_http import STREAM, ended, start
from tests.support.sse import frames


async def test_following_later_merges_and_from_any_position_is_the_tail(client: httpx2.AsyncClient):
    await start(client, run_id="r")
    await ended(client, "r")
    whole = (await client.get("/runs/r/events?merge=0", headers=STREAM)).content
    all_frames = frames(whole)
    merged = frames((await client.get("/runs/r/events", headers=STREAM)).content)
    assert [frame.data for frame in merged if "CONTENT" in frame.data] == [
        '{"type":"TEXT_MESSAGE_CONTENT","messageId":"r-1","delta":"you said hi"}'
    ]
    assert {frame.id for frame in merged} <= {frame.id for frame in all_frames}
    for position, frame in enumerate(all_frames[:-2]):
        for cursor in ({"headers": {"last-event-id": frame.id}}, {"params": {"after": frame.id}}):
            params = {"merge": "0", **cursor.get("params", {})}
            tail = await client.get("/runs/r/events", params=params, headers={**STREAM, **cursor.get("headers", {})})
            assert frames(tail.content) == all_frames[position + 1 :]


async def test_a_client_that_has_it_all_gets_204(client: httpx2.AsyncClient):
    await start(client, run_id="r")
    last = (await ended(client, "r"))["last_seq"]
    for cursor in (str(last), f"{last}.end", f"r:{last}"):
        assert (await client.get("/runs/r/events", headers={"last-event-id": cursor})).status_code == 204
    part_of_none = await client.get("/runs/r/events", headers={"last-event-id": f"{last + 1}.1"})
    assert (part_of_none.status_code, part_of_none.json()["error"]["code"]) == (400, "cursor_invalid")


@pytest.mark.parametrize("cursor", ["x", "-1", "other:3", "3.x", "1e3", "999", "r:", "é", "3 4", "9" * 50])
async def test_a_cursor_that_is_none_has_its_own_answer(client: httpx2.AsyncClient, cursor: str):
    await start(client, run_id="r")
    await ended(client, "r")
    response = await client.get("/runs/r/events", params={"after": cursor}, headers=STREAM)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "cursor_invalid")
    assert response.json()["error"]["run_id"] == "r"


async def test_a_repeated_post_resumes_from_its_cursor(client: httpx2.AsyncClient):
    body = {"message": "hi", "run_id": "r"}
    whole = frames((await client.post("/runs", json=body, headers=STREAM)).content)
    tail = await client.post("/runs", json=body, headers={**STREAM, "last-event-id": whole[2].id})
    assert frames(tail.content)[-1] == whole[-1]
    assert frames(tail.content)[0].id > whole[2].id


async def test_a_page_of_events_as_json(client: httpx2.AsyncClient):
    await start(client, run_id="r")
    await ended(client, "r")
    page = (await client.get("/runs/r/events?after=1&limit=2", headers={"accept": "application/json"})).json()
    assert (page["after"], len(page["events"]), page["ended"]) == (1, 2, True)
    assert page["events"][0]["type"] == "TEXT_MESSAGE_START"
    for query in ("limit=0", "limit=10001", "after=-1", "after=1_0", "after=1.0", "after=٣", "after=" + "9" * 23):
        bad = await client.get(f"/runs/r/events?{query}", headers={"accept": "application/json"})
        assert (bad.status_code, bad.json()["error"]["code"]) == (422, "input_invalid"), query
    for number in ("1_0", "٣", "9" * 23, "9" * 5000):
        stream = await client.get(f"/v1/responses/resp_r?stream=true&starting_after={number}")
        assert (stream.status_code, stream.json()["error"]["code"]) == (422, "input_invalid"), number[:9]
