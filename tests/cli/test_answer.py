"""`gapless answer`: over HTTP and on the store itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gapless.client import SyncClient
from gapless.events import RunFinishedEvent


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/gapless.db"


def said(client: SyncClient, id: str) -> str:
    while not client.record(id).status.ended:
        for _ in client.follow(id):  # until it ends, or asks: its answer may not be recorded yet
            pass
    return "".join(getattr(event, "delta", "") for _, event in client.follow(id))


def test_a_run_is_answered_by_how_its_id_begins(
    server: Callable[..., Any], agents: str, store: str, invoke: Any, terminal: Callable[..., Any]
) -> None:
    serving = server(f"{agents}:asks", f"{agents}:words", "--port", "0", "--store", store)
    with SyncClient(serving.url) as client:

        def asking() -> str:
            id = client.start("hi", agent="asks").id
            *_, (_, last) = client.follow(id)
            assert isinstance(last, RunFinishedEvent)
            return id

        for target in (("--url", serving.url), ("--store", store)):
            id = asking()
            assert invoke("answer", id[:-1], "--show", *target).stdout == "May I?\n"
            refused = invoke("answer", id, "perhaps", *target)
            assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
            assert "write y, n or JSON" in refused.stderr
            many = invoke("answer", id, "y", "n", *target)
            assert f"run {id} asks 1 things: give as many answers, not 2" in many.stderr
            alone = invoke("answer", id, *target)
            assert (alone.exit_code, alone.stderr) == (2, "Error: give an ANSWER, or --decline: May I?\n")
            done = invoke("answer", id[:-1], "y", *target)
            assert (done.stdout, done.exit_code) == (f"run {id}: answered\n", 0)
            assert "resolved {'approved': True}" in said(client, id)
            again = invoke("answer", id, "y", *target)
            assert (again.stderr, again.exit_code) == (f"Error: run {id} has finished: it waits for no answer\n", 1)

        id = asking()
        assert invoke("answer", id, "--decline", "--url", serving.url).exit_code == 0
        assert "cancelled None" in said(client, id)

        id = asking()
        answering = terminal("answer", id, "--url", serving.url)
        answering.expect(r"May I\? \[y/N\]: ")
        answering.press("n\r")
        answering.expect("answered")
        assert answering.ends() == 0
        assert "resolved {'approved': False}" in said(client, id)

        first, second = (client.start("hi", agent="words", run_id=f"twin-{n}").id for n in (1, 2))
        both = invoke("follow", "twin-", "--url", serving.url)
        assert (both.exit_code, both.stderr) == (2, f"Error: 2 runs begin with twin-: {second}, {first}\n")
        assert invoke("follow", "twi", "--url", serving.url).exit_code == 1
