"""What lists of runs and sessions must be, in every store: a part of the conformance suite."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gapless.config import RunConfig
from gapless.errors import CursorInvalid, InputTooLarge
from gapless.events import UserMessage
from gapless.records import LISTED_CHARS_MAX, ModelUsage, RunRequest, RunStatus, SessionRecord
from tests.journals.workers import Worker, a_run


class Lists:
    """Tests with two workers, `a` and `b`, of one store."""

    async def test_lists_have_pages_and_the_next_begins_where_one_ended(self, a: Worker, b: Worker) -> None:
        for i in range(12):
            await a.create(f"r{i}", f"s{i % 5}", user_id=f"u{i % 5 % 2}", created_at=i // 3)
        await a.end("r4", 1, ended_at=99)

        async def paged(ask: Any, limit: int, **where: Any) -> list[list[str]]:
            pages, after = [], None
            while True:
                page = await ask(limit=limit, after=after, **where)
                pages.append([one.id for one in page])
                if page.next is None:
                    return pages
                after = page.next

        runs, sessions = b.store.list_runs, b.store.list_sessions
        for ask, wheres in (
            (runs, ({}, {"user_id": "u1"}, {"session_id": "s1"}, {"status": RunStatus.QUEUED})),
            (runs, ({"session_id": "s2", "status": RunStatus.QUEUED}, {"status": RunStatus.FINISHED})),
            (sessions, ({}, {"user_id": "u0"}, {"user_id": "nobody"})),
        ):
            for where in wheres:
                whole = [one.id for one in await ask(**where)]  # type: ignore[operator]  # either of two
                for limit in (1, 2, 3, 5, 12, 13):
                    pages = await paged(ask, limit, **where)
                    assert pages == [whole[n : n + limit] for n in range(0, len(whole), limit)] or [[]], (where, limit)
                    assert whole or pages == [[]]

        page = await runs(limit=4)
        await a.create("new", "s0", user_id="u0", created_at=100)
        await a.end("r9", 1)
        await a.store.delete_session("s4")  # of r4 and r9, the page's third
        rest = await runs(limit=100, after=page.next)
        assert [run.id for run in rest] == ["r7", "r6", "r5", "r3", "r2", "r1", "r0"]
        for bad in ("", "x", "-1", "1.5", "9" * 30, "é", "1:2"):
            with pytest.raises(CursorInvalid):
                await runs(after=bad)
        for bad in ("", "x", "1", ":s", "é:s"):
            with pytest.raises(CursorInvalid):
                await sessions(after=bad)

    async def test_lists_show_nothing_by_which_a_record_is_long(self, a: Worker, b: Worker) -> None:
        state = {"long": "x" * 100_000}
        await a.store.create_session(
            SessionRecord(id="s", user_id="u", agent="x", created_at=1, updated_at=1, title="t", state=state)
        )
        run = a_run("r", message="y" * 100_000)
        run.input = UserMessage(id="m", content="y" * 100_000)
        run.request = RunRequest(state=state)
        run.config = RunConfig(model_settings={"stop": ["z" * 1000]}, timeout=5)
        await a.store.create_run(run, reject_busy=False)
        listed = (await b.store.list_runs())[0]
        whole = await b.store.get_run("r")
        assert whole is not None
        assert (whole.input, whole.request, whole.config) == (run.input, run.request, run.config)
        assert listed.message == "y" * (LISTED_CHARS_MAX - 1) + "…"
        assert (listed.input, listed.request, listed.config) == (None, None, RunConfig(timeout=5))
        of_list = {"message": listed.message, "input": None, "request": None, "config": listed.config}
        assert msgspec.structs.replace(whole, **of_list) == listed
        (session,) = await b.store.list_sessions()
        known = await b.store.get_session("s")
        assert known is not None
        assert (known.state, session) == (state, msgspec.structs.replace(known, state={}))

    async def test_a_state_has_a_bound(self, a: Worker, b: Worker) -> None:
        await a.store.create_session(SessionRecord(id="s", user_id="u", agent="x", created_at=1, updated_at=1))
        assert await a.store.update_state("s", {"a": "x" * 80}, 2, 100) is not None
        with pytest.raises(InputTooLarge, match="state_bytes_max=100"):
            await b.store.update_state("s", {"b": "x" * 80}, 3, 100)
        known = await b.store.get_session("s")
        assert known is not None
        assert (list(known.state), known.updated_at) == (["a"], 2)
        assert await b.store.update_state("s", {"a": "", "b": "x" * 80}, 4, 100) is not None

    async def test_what_a_run_took_is_in_its_record(self, a: Worker, b: Worker) -> None:
        usage = [ModelUsage(provider="p", model="m", requests=2, input_tokens=9, output_tokens=3, reasoning_tokens=1)]
        for run_id in ("counted", "uncounted"):
            await a.create(run_id)
        await a.end("counted", 1, usage=usage)
        await a.end("uncounted", 1)
        for worker in (a, b):
            assert [run.usage for run in await worker.store.list_runs()] == [None, usage]
            found = await worker.store.get_run("counted")
            assert found is not None
            assert found.usage == usage
