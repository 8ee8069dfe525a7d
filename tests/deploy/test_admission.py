"""Past a limit: new work is refused with a time to come back, and what runs is unharmed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import httpx2
import pytest

from gapless import Runner, create_app
from gapless.cli.bounds import limits_of
from gapless.config import Limits
from gapless.errors import UsageError
from tests.support.agents import Gated
from tests.support.following import rest_of, text_in, text_to
from tests.support.processes import Server, Talks, client_of
from tests.support.waiting import WAIT_S, until

STREAM = {"accept": "text/event-stream"}
KEYS = {"alice": "alice-0123456789abc", "bob": "bob-0123456789abcde"}
LIMITS = (
    "runs_active_max=3",
    "runs_active_per_user_max=2",
    "followers_per_run_max=2",
    "body_bytes_max=2000",
    "message_chars_max=100",
    "event_bytes_max=1000",
    "journal_events_max=20",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'gapless.db'}"


@pytest.fixture(scope="module")
def server(start: Callable[..., list[Server]]) -> Server:
    keys = ",".join(f"{user}={key}" for user, key in KEYS.items())
    options = [argument for limit in LIMITS for argument in ("--limit", limit)]
    return start(*options, environment={"GAPLESS_API_KEYS": keys})[0]


@pytest.fixture
def ask(server: Server) -> Iterator[Callable[..., httpx2.Response]]:
    """`ask("alice", "POST", "/runs", json={…})`"""
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=WAIT_S, verify=False) as http:

        def ask(user: str, method: str, path: str, stream: bool = False, **options: object) -> httpx2.Response:
            headers = {"authorization": f"Bearer {KEYS[user]}"} | (STREAM if stream else {})
            request = http.build_request(method, path, headers=headers, **options)
            return http.send(request, stream=stream)

        yield ask


def admitted(ask: Callable[..., httpx2.Response], user: str, message: str) -> httpx2.Response | None:
    answer = ask(user, "POST", "/runs", json={"message": message})
    return None if answer.status_code == 429 else answer


def code_of(response: httpx2.Response) -> tuple[int, str, bool]:
    """Status, error code, and whether it says when to come back."""
    return response.status_code, response.json()["error"]["code"], "retry-after" in response.headers


async def test_runs_past_the_limits_are_refused_until_one_has_ended(
    server: Server, ask: Callable[..., httpx2.Response], talks: Talks, name: str
):
    mine = [ask("alice", "POST", "/runs", json={"message": name}).json()["id"] for _ in range(2)]
    assert code_of(ask("alice", "POST", "/runs", json={"message": name})) == (429, "limit_reached", True)
    theirs = ask("bob", "POST", "/runs", json={"message": f"{name}-bob"}).json()["id"]
    refused = ask("bob", "POST", "/runs", json={"message": name})
    assert code_of(refused) == (429, "limit_reached", True)
    assert "runs_active_max=3" in refused.json()["error"]["message"]
    again = ask("alice", "POST", "/runs", json={"message": name, "run_id": mine[0]})
    assert again.status_code == 202, "coming back to a run is no new work"
    talks.say(name, "unharmed", "end")
    for run_id in mine:
        events = ask("alice", "GET", f"/runs/{run_id}/events", stream=True).read().decode()
        assert "unharmed" in events
        assert "event: end" in events
    answer = await until(partial(admitted, ask, "bob", name), "one run less, a moment after its end was seen")
    assert answer.status_code == 202
    talks.say(f"{name}-bob", "end")
    for run_id in (theirs, answer.json()["id"]):
        ask("bob", "GET", f"/runs/{run_id}/events", stream=True).read()


async def test_a_follower_past_the_limit_is_refused_and_the_others_go_on(
    server: Server, ask: Callable[..., httpx2.Response], talks: Talks, name: str
):
    run_id = (await until(partial(admitted, ask, "alice", name), "those of the test before count no more")).json()["id"]
    open_streams = [ask("alice", "GET", f"/runs/{run_id}/events", stream=True) for _ in range(2)]
    refused = ask("alice", "GET", f"/runs/{run_id}/events", stream=True)
    refused.read()
    assert code_of(refused) == (429, "limit_reached", True)
    talks.say(name, "both", "end")
    for stream in open_streams:
        assert "both" in stream.read().decode()


def test_what_is_too_large_is_refused(ask: Callable[..., httpx2.Response], name: str):
    assert code_of(ask("alice", "POST", "/runs", json={"message": "x" * 101})) == (413, "input_too_large", False)
    assert code_of(ask("alice", "POST", "/runs", json={"message": "x" * 3000})) == (413, "input_too_large", False)
    endless = iter([b'{"message":"', *[b"x" * 500] * 10, b'"}'])  # in chunks: no length is said beforehand
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEYS['alice']}"}
    with httpx2.Client(
        base_url=str(ask("alice", "GET", "/health").url).removesuffix("/health"), verify=False, timeout=WAIT_S
    ) as http:
        assert code_of(http.post("/runs", content=endless, headers=headers)) == (413, "input_too_large", False)


async def test_a_journal_past_its_limit_ends_its_run_with_an_error_event(server: Server, talks: Talks, name: str):
    talks.say(name, *(f"w{number}" for number in range(50)), "end")
    async with client_of(server.url, api_key=KEYS["alice"]) as client:
        run = await client.start(name)
        seen = await rest_of(client.follow(run.id))
        record = await client.record(run.id)
    assert getattr(seen[-1][1], "code", None) == "run_limit"
    assert record.error is not None
    assert "journal_events_max=20" in record.error["message"]
    assert text_in(seen).startswith("w0 w1 w2 "), "what it had said stays"


async def test_a_piece_of_text_past_the_size_of_an_event_is_split(server: Server, talks: Talks, name: str):
    async with client_of(server.url, api_key=KEYS["alice"]) as client:
        run = await client.start(name)
        follower = client.follow(run.id)
        talks.say(name, "x" * 3000)
        assert text_in(await text_to(follower, "x ")) == "x" * 3000 + " "
        talks.say(name, "end")
        await rest_of(follower)
        assert max(len(getattr(event, "delta", "")) for event in (await client.page(run.id)).events) < 1000


async def test_a_server_that_is_stopping_takes_no_new_run_and_lets_come_back_to_the_others():
    agent = Gated("unharmed")
    runner = Runner(agent)
    transport = httpx2.ASGITransport(create_app(runner))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        known = {"message": "x", "run_id": "r"}
        await client.post("/runs", json=known)
        runner.refuse_new()
        assert code_of(await client.post("/runs", json={"message": "y"})) == (503, "shutting_down", True)
        assert (await client.post("/runs", json=known)).status_code == 202
        agent.let(2)
        assert "unharmed" in (await client.get("/runs/r/events", headers=STREAM)).text
    await runner.close()


def test_limits_on_the_command_line():
    assert limits_of([]) == Limits()
    assert limits_of(["runs_active_max=7", "body_bytes_max=1"]) == Limits(runs_active_max=7, body_bytes_max=1)


@pytest.mark.parametrize("option", ["runs=1", "runs_active_max", "runs_active_max=0", "runs_active_max=-1", "=1"])
def test_a_limit_that_is_none_is_refused(option: str):
    with pytest.raises(UsageError, match=r"there is no such limit; one of body_bytes_max|write runs_active_max=NUMBER"):
        limits_of([option])
