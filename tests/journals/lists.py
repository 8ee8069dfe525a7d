"""What lists of runs and sessions must be, in every store: a part of the conformance suite."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gapless.config import RunConfig
from gapless.errors import CursorInvalid, InputTooLarge
from gapless.events import UserMessage
from gapless.journals import finding
from gapless.records import LISTED_CHARS_MAX, ModelUsage, RunRequest, RunStatus, SessionRecord
from gapless.sought import Sought
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

    async def test_runs_are_found_by_whatever_is_sought_on_pages_that_join(self, a: Worker, b: Worker) -> None:
        failed = {"status": RunStatus.FAILED, "error": {"code": "agent_failed", "message": "Ünder WATER"}}
        for i in range(12):
            agent = "rare" if i == 1 else f"a{i % 2}"
            made = {"user_id": f"u{i % 2}", "agent": agent, "created_at": i * 60_000}
            await a.create(f"r{i}", f"s{i % 4}", **made)
        for i in range(8):
            await a.end(f"r{i}", 1, ended_at=99, **(failed if i in (1, 2, 5) else {}))
        everything = [f"r{i}" for i in reversed(range(12))]
        for sought, found in (
            (Sought(), everything),
            (Sought(agent="rare"), ["r1"]),
            (Sought(agent="nobody"), []),
            (Sought(status=RunStatus.FAILED), ["r5", "r2", "r1"]),
            (Sought(status=RunStatus.FAILED, user_id="u1"), ["r5", "r1"]),
            (Sought(status=RunStatus.CANCELLED), []),
            (Sought(status=RunStatus.QUEUED), everything[:4]),
            (Sought(status=RunStatus.QUEUED, session_id="s1"), ["r9"]),
            (Sought(status=RunStatus.FINISHED, agent="a0"), ["r6", "r4", "r0"]),
            (Sought(error="ünder water"), ["r5", "r2", "r1"]),
            (Sought(error="AGENT_f", session_id="s1"), ["r5", "r1"]),
            (Sought(error="water", agent="rare"), ["r1"]),
            (Sought(error="water", status=RunStatus.FINISHED), []),
            (Sought(since=9 * 60_000), ["r11", "r10", "r9"]),
            (Sought(since=2 * 60_000, until=5 * 60_000, user_id="u0"), ["r4", "r2"]),
            (Sought(since=2 * 60_000, status=RunStatus.FAILED), ["r5", "r2"]),
        ):
            for limit in (1, 2, 5, 100):
                ids, after, pages = list[str](), None, 0
                while pages == 0 or after is not None:
                    page = await b.store.find_runs(sought, limit=limit, after=after)
                    assert len(page) <= limit
                    ids += [run.id for run in page]
                    after, pages = page.next, pages + 1
                assert ids == found, (sought, limit)
        (run,) = await b.store.find_runs(Sought(agent="rare"))
        assert run == next(one for one in await b.store.list_runs() if one.id == "r1")

    async def test_runs_with_an_error_are_found_in_the_order_in_which_they_began(self, a: Worker, b: Worker) -> None:
        for i in range(5):
            await a.create(f"r{i}", f"s{i}")
        error = {"code": "agent_failed", "message": "ValueError"}
        for i, status in (
            (3, RunStatus.FAILED),
            (0, RunStatus.CANCELLED),
            (4, RunStatus.FINISHED),
            (1, RunStatus.FAILED),
        ):
            await a.end(f"r{i}", 1, status=status, error=None if status is RunStatus.FINISHED else error)
        sought = Sought(error="valueerror")
        assert [run.id for run in await b.store.find_runs(sought)] == ["r3", "r1", "r0"], "whenever they ended"
        page = await b.store.find_runs(sought, limit=1)
        await a.store.delete_session("s1")
        behind = await b.store.find_runs(sought, after=page.next)
        assert [run.id for run in [*page, *behind]] == ["r3", "r0"]

    async def test_what_is_rare_is_looked_for_page_by_page(
        self, a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(finding, "LOOKED_MAX", 4)
        monkeypatch.setattr(finding, "LOOK_S_MAX", 1e9)
        for i in range(11):
            await a.create(f"r{i}", f"s{i}", agent="rare" if i == 1 else "often")
            if i not in (3, 8):
                await a.end(f"r{i}", 1)
        for sought, found, looked in (
            (Sought(agent="rare"), ["r1"], [4, 4, 3]),
            (Sought(agent="rare", status=RunStatus.FINISHED), ["r1"], [4, 4, 3]),
            (Sought(agent="rare", status=RunStatus.QUEUED), [], [2]),
            (Sought(agent="rare", session_id="s1"), ["r1"], [1]),
            (Sought(error="nothing"), [], None),
        ):
            ids, after, pages = list[str](), None, list[int]()
            while not pages or after is not None:
                page = await b.store.find_runs(sought, limit=3, after=after)
                ids += [run.id for run in page]
                after = page.next
                pages.append(page.looked)
            assert ids == found
            assert looked is None or pages == looked, sought
        assert sum(pages) in (0, 2), "those alone that may have one: in Redis, all that had not ended once"

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
