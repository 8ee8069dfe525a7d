"""One attempt to tell a webhook: what is sent, what its answers mean, and where it does not go."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gapless.notify import NotifyConfig
from gapless.runs.posting import ANSWER_BYTES_MAX, Outcome
from gapless.runs.webhooks import CONNECTIONS_MAX, Webhooks
from tests.support.receiver import SECRET, Receiver

BODY = json.dumps({"type": "run.finished", "data": {"text": "é\u2028👩🏽‍🚀"}}, ensure_ascii=False)
HERE = NotifyConfig(http=True, private=True, timeout_s=5.0)
TAKEN = Outcome(status=204)
PATIENT = Outcome("it answers 503", 503, retry_after_s=4 * 3600)


async def tell(url: str, config: NotifyConfig = HERE, secret: str = SECRET) -> Outcome:
    webhooks = Webhooks(config)
    try:
        return await webhooks.tell(url, secret, "msg_1", BODY)
    finally:
        await webhooks.aclose()


async def test_what_is_sent_is_verified_as_standard_webhooks_are() -> None:
    async with Receiver() as receiver:
        assert await tell(receiver.url) == TAKEN
        assert receiver.received == [("msg_1", json.loads(BODY))]
        assert receiver.headers[0]["content-type"] == "application/json"


async def test_while_a_secret_is_replaced_receivers_may_have_either() -> None:
    other = "whsec_" + "b3RoZXIx" * 5
    for has in (SECRET, other):
        async with Receiver(secret=has) as receiver:
            assert await tell(receiver.url, secret=f"{SECRET},{other}") == TAKEN
            assert receiver.unverified == 0
    async with Receiver(secret=other) as receiver:
        assert await tell(receiver.url) == TAKEN
        assert receiver.unverified == 1, "the receiver can tell"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Outcome(status=200)),
        (b"HTTP/1.1 202 Accepted\r\ncontent-length: 9999999999\r\n\r\nmuch", Outcome(status=202)),
        (b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", Outcome("it answers 410", 410, gone=True)),
        (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", Outcome("it answers 500", 500)),
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", Outcome("it answers 404", 404)),
        (b"HTTP/1.1 429 Slow\r\nRetry-After: 120\r\n\r\n", Outcome("it answers 429", 429, retry_after_s=120)),
        (b"HTTP/1.1 503 No\r\nRetry-After: 999999999\r\n\r\n", PATIENT),
        (b"HTTP/1.1 503 No\r\nRetry-After: %s\r\n\r\n" % (b"9" * 400), PATIENT),
        (b"HTTP/1.1 503 No\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n\r\n", PATIENT),
        (b"HTTP/1.1 503 No\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n", Outcome("it answers 503", 503)),
        (b"HTTP/1.1 503 No\r\nRetry-After: soon\r\n\r\n", Outcome("it answers 503", 503)),
        (b"HTTP/1.1 503 No\r\nRetry-After: \xff\r\n\r\n", Outcome("it answers 503", 503)),
        (b"nonsense\r\n\r\n", Outcome("could not be reached (RemoteProtocolError)")),
        (b"", Outcome("no answer in 0.5 s")),
    ],
)
async def test_what_its_answers_mean(answer: bytes, outcome: Outcome) -> None:
    async with Receiver(lambda number: answer) as receiver:
        assert await tell(receiver.url, NotifyConfig(http=True, private=True, timeout_s=0.5)) == outcome


async def test_a_receiver_that_hangs_is_left_in_time() -> None:
    async with Receiver(lambda number: None) as receiver:
        config = NotifyConfig(http=True, private=True, timeout_s=0.2)
        assert await tell(receiver.url, config) == Outcome("no answer in 0.2 s")


async def test_an_answer_that_never_begins_is_left_however_fast_it_comes() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * (ANSWER_BYTES_MAX // 40)
    no_content = b"HTTP/1.1 204 No Content\r\n\r\n"
    async with Receiver(lambda number: hints + no_content) as receiver:
        assert await tell(receiver.url) == Outcome(f"its answer is none after {ANSWER_BYTES_MAX} bytes")
    async with Receiver(lambda number: hints[: len(hints) // 4 // 40 * 40] + no_content) as receiver:
        webhooks = Webhooks(HERE)
        for _ in range(5):  # over one connection: each request has as much
            assert await webhooks.tell(receiver.url, SECRET, "msg_1", BODY) == TAKEN
        await webhooks.aclose()


async def test_a_port_where_nobody_listens_is_an_error_without_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        outcome = await tell(f"http://127.0.0.1:{free.getsockname()[1]}/secret-path")
    assert outcome == Outcome("could not be reached (ConnectError)")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status: int) -> None:
    async with Receiver() as private:
        answer = f"HTTP/1.1 {status} Moved\r\nlocation: {private.url}\r\ncontent-length: 0\r\n\r\n".encode()
        async with Receiver(lambda number: answer) as receiver:
            outcome = await tell(receiver.url)
            assert str(status) in outcome.error
            assert "redirects are not followed" in outcome.error
            assert len(receiver.received) == 1
        assert private.received == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "hooks.example.com"]
)
async def test_no_private_address_is_connected_to(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if host == "hooks.example.com":
        names(monkeypatch, ["127.0.0.1"])
    async with Receiver() as receiver:
        outcome = await tell(f"http://{host}:{receiver.port}/hook", NotifyConfig(http=True))
        assert outcome.error == "its address is not public; others are the operator's to allow", "and not which it is"
        assert receiver.received == []


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[int]:
    """Let each look-up of any name find the next of these; the last one from then on."""
    asked: list[int] = []

    def getaddrinfo(host: Any, port: Any, **more: Any) -> list[Any]:
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(1)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr("gapless.runs.posting.getaddrinfo", getaddrinfo)
    return asked


async def test_a_name_that_leads_elsewhere_at_the_second_look_is_looked_up_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: the connection goes to the address that was looked at."""
    asked = names(monkeypatch, ["192.0.2.1", "93.184.216.34"], ["127.0.0.1"])
    connected: list[str] = []

    async def connect(self: Any, host: str, port: int, *more: Any) -> Any:
        connected.append(host)
        raise OSError("there is no network here")

    monkeypatch.setattr("httpcore2.AnyIOBackend.connect_tcp", connect)
    async with Receiver() as receiver:
        outcome = await tell(f"http://rebinds.example.com:{receiver.port}/hook", NotifyConfig(http=True))
        assert outcome.error.startswith("could not be reached")
        assert receiver.received == []
    assert connected == ["93.184.216.34"], "and not to the one that is for documents only"
    assert len(asked) == 1


async def test_names_that_nobody_answers_for_hold_up_no_other_look_up_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop's own threads, in which it looks up the addresses of models, are few: a dozen slow names fill them."""
    answered = threading.Event()
    asked_in: list[str] = []

    def getaddrinfo(host: Any, port: Any, **more: Any) -> list[Any]:
        asked_in.append(threading.current_thread().name)
        assert answered.wait(60)
        return []

    monkeypatch.setattr("gapless.runs.posting.getaddrinfo", getaddrinfo)
    loop, webhooks = asyncio.get_running_loop(), Webhooks(NotifyConfig(timeout_s=0.1))
    loop.set_default_executor(ThreadPoolExecutor(1))
    try:
        urls = [f"https://{number}.example.com/" for number in range(2 * CONNECTIONS_MAX)]
        outcomes = await asyncio.gather(*(webhooks.tell(url, SECRET, "msg_1", BODY) for url in urls))
        assert set(outcomes) == {Outcome("no answer in 0.1 s")}
        assert 0 < len(asked_in) <= CONNECTIONS_MAX
        assert all(name.startswith("gapless-lookup") for name in asked_in)
        assert await asyncio.to_thread(lambda: "others go on") == "others go on"
        await webhooks.aclose()  # which waits for none of them
    finally:
        answered.set()


async def test_http_and_a_missing_secret_are_refused_here_too() -> None:
    async with Receiver() as receiver:
        assert "not allowed" in (await tell(receiver.url, NotifyConfig(private=True))).error
        assert "no secret" in (await tell(receiver.url, secret="")).error
        assert receiver.received == []


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver() as proxy, Receiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await tell(receiver.url) == TAKEN
        assert (len(proxy.received), len(receiver.received)) == (0, 1)
