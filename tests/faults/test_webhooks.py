"""Webhooks that hang, refuse or lead elsewhere, and a server that is killed between a run's end and its delivery."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gapless.client import GaplessClient
from tests.support.processes import QUICK, Server, free_port
from tests.support.receiver import SECRET, Receiver
from tests.support.waiting import until

TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


async def test_what_a_killed_server_did_not_get_told_is_told_by_the_next(store: str, tmp_path: Path) -> None:
    refusing = free_port()
    async with (
        Receiver(lambda number: None if number == 1 else TAKEN) as hanging,
        Receiver() as elsewhere,
        Receiver(lambda number: f"HTTP/1.1 307 Moved\r\nlocation: {elsewhere.url}\r\n\r\n".encode()) as moved,
    ):
        urls = [hanging.url, f"http://127.0.0.1:{refusing}/hook", moved.url]
        options = ["http=true", "private=true", "timeout_s=1", f"secret={SECRET}", *(f"url={url}" for url in urls)]
        arguments = tuple(part for option in options for part in ("--notify", option))
        server = Server(tmp_path, store=store, arguments=("--lease", "2", *arguments))
        try:
            await asyncio.to_thread(server.start)
            async with GaplessClient(server.url, limits=QUICK) as client:
                await client.start("hello", run_id="r")
                server.say("a", "end")
                await hanging.until(1)
                await moved.until(1)
                await asyncio.to_thread(server.kill)  # the run has ended, and its webhook has not answered
                await asyncio.to_thread(server.start)
                async with Receiver(port=refusing) as refused:
                    await hanging.until(2)
                    await refused.until(1)

                    async def told() -> bool:
                        states = [(notice.status, notice.error != "") for notice in await client.notices("r")]
                        return sorted(states) == [("delivered", False), ("delivered", False), ("pending", True)]

                    await until(told, "the two that answer are told, and the third has been tried")
                    by_id = {notice.id: notice for notice in await client.notices("r")}
                    assert len(refused.received) == 1
        finally:
            server.close()
    (first, body), (second, again) = hanging.received
    assert first == second
    assert body == again
    assert body["type"] == "run.finished"
    assert body["data"]["run_id"] == "r"
    assert by_id.keys() == {first, refused.received[0][0], moved.received[0][0]}
    assert "redirects are not followed" in by_id[moved.received[0][0]].error
    assert elsewhere.received == []
    assert hanging.unverified + refused.unverified + moved.unverified == 0
    log = server.log.read_text()
    assert SECRET not in log
    assert "/hook" not in log
