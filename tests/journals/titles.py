"""What titles of sessions must be, in every store: a part of the conformance suite."""

from __future__ import annotations

import asyncio

from gapless.records import SessionRecord
from tests.journals.workers import Worker


class Titles:
    """Tests with two workers, `a` and `b`, of one store."""

    async def test_a_session_made_ahead_has_the_title_of_the_first_run_that_ends(self, a: Worker, b: Worker) -> None:
        await a.store.create_session(SessionRecord(id="s", user_id="u", agent="x", created_at=1, updated_at=1))
        for run_id, message in (("r1", "first \x1b[31mé\x00\x1b[0m"), ("r2", "second")):
            await a.create(run_id, message=message)
            await a.end(run_id, 1)
            session = await b.store.get_session("s")
            assert session is not None
            assert session.title == "first é"
            assert await b.store.list_sessions() == [session]

    async def test_the_title_of_a_session_that_a_run_begins_has_no_control_characters(
        self, a: Worker, b: Worker
    ) -> None:
        await a.create("r", message="\x1b[31mred\x1b[0m\tand \x00bell\x07\r\nsecond line")
        for end in (False, True):
            if end:
                await a.end("r", 1)
            session = await b.store.get_session("s")
            assert session is not None
            assert session.title == "red and bell"
            assert await b.store.list_sessions() == [session]

    async def test_a_title_is_given_and_stays_where_a_run_ends(self, a: Worker, b: Worker) -> None:
        await a.create("r1", message="of the run", created_at=5)
        await a.create("other", "s2", created_at=9)
        renamed = await b.store.rename_session("s", "given é\x00{} 👩🏽‍🚀")
        assert renamed is not None
        assert (renamed.title, renamed.updated_at, renamed.user_id) == ("given é\x00{} 👩🏽‍🚀", 5, "u")
        assert await a.store.get_session("s") == renamed
        assert [session.id for session in await a.store.list_sessions()] == ["s2", "s"], "it was not used"
        await a.end("r1", 1, ended_at=7, state={"k": 1})
        session = await b.store.get_session("s")
        assert session is not None
        assert (session.title, session.updated_at, session.state) == (renamed.title, 7, {"k": 1})
        assert (await b.store.list_sessions())[1].title == renamed.title
        assert await a.store.update_state("s", {"k": 2}, 8) is not None
        without = await a.store.rename_session("s", "")
        assert without is not None
        assert (without.title, without.state, without.updated_at) == ("", {"k": 2}, 8)
        await b.create("r2", message="the second")
        await b.end("r2", 1)
        session = await a.store.get_session("s")
        assert session is not None
        assert session.title == "the second"
        assert await b.store.rename_session("nobody", "x") is None
        assert await b.store.get_session("nobody") is None

    async def test_a_title_that_is_given_while_a_run_ends_is_kept_and_takes_nothing_along(
        self, a: Worker, b: Worker
    ) -> None:
        for n in range(12):
            session_id = f"s{n}"
            made = SessionRecord(id=session_id, user_id="u", agent="x", created_at=1, updated_at=1)
            if n % 2:  # else the run makes it, with its own title
                await a.store.create_session(made)
            await a.create(f"r{n}", session_id)
            ways = [b.store.rename_session(session_id, "given"), a.end(f"r{n}", 1, state={"n": n}, ended_at=50)]
            await asyncio.gather(*(ways if n % 3 else reversed(ways)))
            session = await b.store.get_session(session_id)
            assert session is not None
            assert (session.title, session.state, session.updated_at) == ("given", {"n": n}, 50)
        for n in range(6):
            await asyncio.gather(
                a.store.rename_session("s0", f"title {n}"), *(w.store.update_state("s0", {w.id: n}, 60) for w in (a, b))
            )
            session = await b.store.get_session("s0")
            assert session is not None
            assert (session.title, session.state) == (f"title {n}", {"n": 0, "a": n, "b": n})
