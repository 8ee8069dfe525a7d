"""A server that is killed between a run's end and what its user's browser is told of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2

from gapless.client import GaplessClient
from tests.support.processes import QUICK, Server
from tests.support.push_service import KEY, SUBJECT, PushService
from tests.support.waiting import until


async def test_what_a_killed_server_did_not_tell_a_browser_is_told_by_the_next(store: str, tmp_path: Path) -> None:
    async with PushService() as service:
        options = ["http=true", "private=true", "timeout_s=1", f"push_key={KEY}", f"push_subject={SUBJECT}"]
        arguments = tuple(part for option in options for part in ("--notify", option))
        server = Server(tmp_path, store=store, arguments=("--lease", "2", *arguments))
        service.answers["phone"] = None  # it hangs
        try:
            await asyncio.to_thread(server.start)
            async with GaplessClient(server.url, limits=QUICK) as client, httpx2.AsyncClient() as browser:
                address = f"{server.url}/push/subscriptions"
                kept = await browser.put(address, json=service.subscription("phone"))
                assert kept.status_code == 204, kept.text
                await client.start("hello", run_id="r")
                server.say("a", "end")
                await service.until(1)
                await asyncio.to_thread(server.kill)  # the run has ended, and the service has not answered
                del service.answers["phone"]
                await asyncio.to_thread(server.start)
                await service.until(2)

                async def told() -> bool:
                    return [notice.status for notice in await client.notices("r")] == ["delivered"]

                await until(told, "the browser is told")
        finally:
            server.close()
    first, second = service.told("phone")
    assert first == second, "under the same id: the browser shows it once"
    assert first["type"] == "run.finished"
    log = server.log.read_text()
    assert KEY not in log
    assert "/push/phone" not in log
