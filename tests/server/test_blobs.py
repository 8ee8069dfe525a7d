"""`GET /runs/{id}/blobs/{blob}`: who may read a run may fetch its files, whole or in ranges."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from gapless import CustomEvent, Event, Runner
from gapless.journals.contract import BLOB_PIECE_BYTES

DATA = os.urandom(BLOB_PIECE_BYTES + 1000)


async def a_blob(client: httpx2.AsyncClient, mime_type: str = "image/png") -> str:
    """The address of what the agent `draws` gives."""
    await client.post("/runs", json={"message": mime_type, "run_id": "r"})
    await client.get("/runs/r/events", headers={"accept": "text/event-stream"})
    page = (await client.get("/runs/r/events", headers={"accept": "application/json"})).json()
    url: str = next(event["value"]["url"] for event in page["events"] if event["type"] == "CUSTOM")
    return url


async def draws(message: str) -> AsyncIterator[Event]:
    yield CustomEvent(name="gapless.file", value={"mimeType": message, "data": DATA})


@pytest.fixture
async def client(client_of: Callable[..., Any]) -> httpx2.AsyncClient:
    return await client_of(Runner(draws))  # type: ignore[no-any-return]  # as made there


async def test_it_is_fetched_whole_and_never_again(client: httpx2.AsyncClient) -> None:
    url = await a_blob(client)
    response = await client.get(url)
    assert response.content == DATA
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-length"] == str(len(DATA))
    assert "immutable" in response.headers["cache-control"]
    again = await client.get(url, headers={"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await client.head(url)
    assert (head.headers["content-length"], head.content) == (str(len(DATA)), b"")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, len(DATA))),
        ("bytes=-7", (len(DATA) - 7, len(DATA))),
        (f"bytes={BLOB_PIECE_BYTES - 2}-{BLOB_PIECE_BYTES + 2}", (BLOB_PIECE_BYTES - 2, BLOB_PIECE_BYTES + 3)),
        ("bytes=3-99999999999", (3, len(DATA))),
    ],
)
async def test_a_range_is_fetched(client: httpx2.AsyncClient, asked: str, expected: tuple[int, int]) -> None:
    url = await a_blob(client)
    start, stop = expected
    response = await client.get(url, headers={"range": asked})
    assert response.status_code == 206
    assert response.content == DATA[start:stop]
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"


@pytest.mark.parametrize("asked", ["bytes=9-3", "bytes=-", "bytes=0-1,4-5", "lines=1-2", "bytes=a-b"])
async def test_what_is_no_single_range_gets_the_whole(client: httpx2.AsyncClient, asked: str) -> None:
    response = await client.get(await a_blob(client), headers={"range": asked})
    assert (response.status_code, len(response.content)) == (200, len(DATA))


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
async def test_a_range_beyond_the_end_is_refused(client: httpx2.AsyncClient, asked: str) -> None:
    response = await client.get(await a_blob(client), headers={"range": asked})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(DATA)}"


async def test_a_range_of_another_version_gets_the_whole(client: httpx2.AsyncClient) -> None:
    url = await a_blob(client)
    response = await client.get(url, headers={"range": "bytes=0-1", "if-range": '"other"'})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("mime_type", "disposition", "content_type"),
    [
        ("image/png", "inline", "image/png"),
        ("text/html", "attachment", "text/html"),
        ("image/svg+xml", "attachment", "image/svg+xml"),
        ("application/pdf", "inline", "application/pdf"),
        ("bad\r\nset-cookie: a=b", "attachment", "application/octet-stream"),
        ("", "attachment", "application/octet-stream"),
    ],
)
async def test_nothing_is_run_as_this_sites(
    client: httpx2.AsyncClient, mime_type: str, disposition: str, content_type: str
) -> None:
    url = await a_blob(client, mime_type or "x")
    response = await client.get(url)
    if mime_type:
        assert response.headers["content-type"] == content_type
    assert response.headers["content-disposition"] == disposition
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("blob_id", ["0" * 32, "x", "%2e%2e", "A" * 32, "0" * 500])
async def test_what_is_not_there_is_404(client: httpx2.AsyncClient, blob_id: str) -> None:
    await a_blob(client)
    response = await client.get(f"/runs/r/blobs/{blob_id}")
    assert response.status_code == 404


async def test_only_who_may_read_the_run_may(client_of: Callable[..., Any]) -> None:
    def authenticate(request: Any) -> str | None:
        user: str | None = request.headers.get("x-user")
        return user

    owner = await client_of(Runner(draws), headers={"x-user": "anna"}, authenticate=authenticate)
    url = await a_blob(owner)
    assert (await owner.get(url)).content == DATA
    other = await owner.get(url, headers={"x-user": "bert"})
    assert (other.status_code, other.json()["error"]["code"]) == (404, "run_not_found")
    assert (await owner.get(url, headers={"x-user": ""})).status_code == 401


async def test_a_file_called_by_its_place_is_asked_for_again(client_of: Callable[..., Any]) -> None:
    async def gives(message: str) -> AsyncIterator[Event]:
        yield CustomEvent(name="gapless.file", value={"mimeType": "image/png", "data": message.encode()})

    client = await client_of(Runner(gives))
    tags: list[str] = []
    for data in ("one", "two"):  # under the id of a run that is deleted
        started = await client.post("/runs", json={"message": data, "run_id": "r", "session_id": "s"})
        await client.get("/runs/r/events", headers={"accept": "text/event-stream"})
        response = await client.get("/runs/r/blobs/file-1", headers={"if-none-match": ", ".join(tags)})
        assert (started.status_code, response.status_code, response.content) == (202, 200, data.encode())
        assert response.headers["cache-control"] == "private, no-cache"
        tags.append(response.headers["etag"])
        again = await client.get("/runs/r/blobs/file-1", headers={"if-none-match": tags[-1]})
        assert (again.status_code, again.content) == (304, b"")
        assert (await client.delete("/sessions/s")).status_code == 204
