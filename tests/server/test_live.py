"""The route of live runs: who may begin and hear one, and what refuses it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import pytest
import websockets
from websockets.asyncio.client import connect

from gapless import Runner, create_app
from gapless.testing import serving
from tests.support.live import heard, live, one_word, parrot, text
from tests.support.waiting import WAIT_S, until


@pytest.fixture
def url() -> Iterator[str]:
    with serving(create_app(Runner(agents={"parrot": parrot, "word": one_word}))) as url:
        yield url


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"agent": "nobody"}, 404, "agent_not_found"),
        ({"agent": "word"}, 422, "input_invalid"),
        ({"wire": "smoke"}, 422, "input_invalid"),
        ({"config": "{"}, 422, "input_invalid"),
        ({"config": '{"on_worker_lost": "restart"}'}, 422, "input_invalid"),
        ({"run_id": "new", "after": "7"}, 400, "cursor_invalid"),
        ({"run_id": ".."}, 422, "input_invalid"),
        ({"run_id": "ordinary"}, 422, "input_invalid"),
    ],
)
async def test_what_cannot_begin_is_refused_with_a_status(url: str, query: dict[str, str], status: int, code: str):
    async with httpx2.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        await http.post("/runs", json={"message": "x", "agent": "word", "run_id": "ordinary"})
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with live(url, **query):
            pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == code


async def test_who_may_not_be_told_of_it_is_refused_with_a_status(url: str):
    target, notify = url.replace("http", "ws", 1) + "/live?agent=parrot", {"X-Notify": "https://127.0.0.1/"}
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(target, additional_headers=notify, proxy=None):
            pass
    assert refused.value.response.status_code == 422
    assert "no public address" in json.loads(refused.value.response.body or b"")["error"]["message"]


async def test_a_live_run_is_its_users(monkeypatch: pytest.MonkeyPatch):
    keys = {"alice": "a" * 16, "bob": "b" * 16}
    monkeypatch.setenv("GAPLESS_API_KEYS", ",".join(f"{name}={key}" for name, key in keys.items()))

    def as_user(url: str, name: str) -> connect:
        target = url.replace("http", "ws", 1) + "/live?run_id=r"
        return connect(target, additional_headers={"Authorization": f"Bearer {keys[name]}"}, proxy=None)

    with serving(create_app(Runner(parrot))) as url:
        async with as_user(url, "alice") as socket:
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with as_user(url, "bob"):
                    pass
            assert refused.value.response.status_code == 409  # the id is taken, and nothing more is said of it
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with live(url):
                    pass
            assert refused.value.response.status_code == 401
            await socket.send('{"close": true}')
            assert text(await heard(socket)) == "Bye."


async def test_who_may_read_and_not_answer_only_listens():
    def reads(user: str, action: str, record: object) -> bool:
        return action == "read"

    with serving(create_app(Runner(agents={"parrot": parrot}), authorize=reads)) as url:
        async with live(url, run_id="r") as socket:
            await socket.recv()
            await socket.send('{"content": "Hi"}')
            assert json.loads(await socket.recv())["error"]["code"] == "run_not_found"


async def test_another_web_sites_page_is_refused(url: str):
    target = url.replace("http", "ws", 1) + "/live?agent=parrot"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(target, origin="https://elsewhere.example", proxy=None):  # type: ignore[arg-type]
            pass
    assert refused.value.response.status_code == 403


async def test_a_run_with_on_disconnect_ends_with_its_last_client(url: str):
    async with live(url, run_id="r", config='{"on_disconnect": "cancel"}') as socket:
        await socket.recv()
    async with httpx2.AsyncClient(base_url=url, timeout=WAIT_S) as http:

        async def status() -> bool:
            return bool((await http.get("/runs/r")).json()["status"] == "cancelled")

        await until(status, "the run is cancelled")


async def test_a_plain_request_is_told_to_upgrade(url: str):
    async with httpx2.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        response = await http.get("/live")
    assert (response.status_code, response.headers["upgrade"]) == (426, "websocket")
    assert "gapless[live]" in response.json()["error"]["message"]
