"""`gapless runs`, `follow`, `cancel`: over HTTP and on the store itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gapless.client import SyncClient
from gapless.events import ResumeEntry, RunFinishedEvent, RunFinishedInterruptOutcome
from tests.support.processes import free_port

WORDS = "".join(f"word{number} " for number in range(12))


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/gapless.db"


@pytest.fixture
def serving(server: Callable[..., Any], agents: str, store: str) -> Any:
    arguments = [f"{agents}:{name}" for name in ("words", "endless", "raises", "asks")]
    return server(*arguments, "--port", "0", "--store", store)


def test_by_http_and_by_store_the_same(serving: Any, store: str, invoke: Any) -> None:
    with SyncClient(serving.url) as client:
        ids = {name: client.start("hi", agent=name, session_id=name).id for name in ("words", "raises")}
        for id in ids.values():
            list(client.follow(id))
    for target in (("--url", serving.url), ("--store", store)):
        header, *rows = (line.split("\t") for line in invoke("runs", *target).stdout.splitlines())
        assert header[:5] == ["id", "status", "agent", "session", "events"]
        assert {row[0]: row[1] for row in rows} == {ids["words"]: "finished", ids["raises"]: "failed"}
        only = invoke("runs", "--status", "failed", "--session", "raises", "--limit", "1", *target).stdout.splitlines()
        assert only[1].startswith(ids["raises"])

        listed = [json.loads(line) for line in invoke("runs", "--json", *target).stdout.splitlines()]
        assert {run["id"]: run["status"] for run in listed} == {row[0]: row[1] for row in rows}
        assert not {"owner", "input", "config"} & set().union(*listed)

        done = invoke("follow", ids["words"], *target)
        assert (done.stdout, done.stderr, done.exit_code) == (WORDS + "\n", "", 0)
        failed = invoke("follow", ids["raises"], *target)
        assert (failed.stdout, failed.exit_code) == ("so far \n", 1)
        assert failed.stderr.startswith("Error: the agent raised ValueError")

        lines = [json.loads(line) for line in invoke("follow", ids["words"], "--json", *target).stdout.splitlines()]
        assert lines[0]["event"]["type"] == "RUN_STARTED"
        assert lines[-1]["event"]["type"] == "RUN_FINISHED"
        last = lines[-1]["id"]
        rest = invoke("follow", ids["words"], "--after", str(last - 1), "--json", *target).stdout.splitlines()
        assert [json.loads(line) for line in rest] == lines[-1:]
        whole = invoke("follow", ids["words"], "--after", str(last), *target)
        assert (whole.stdout, whole.exit_code) == ("", 0)
        beyond = invoke("follow", ids["words"], "--after", str(last + 1), *target)
        assert (beyond.exit_code, beyond.stderr.count("\n")) == (1, 1)

        unknown = invoke("follow", "no-such-run", *target)
        hint = f"`gapless runs {' '.join(target)}` lists them"
        assert (unknown.stderr, unknown.exit_code) == (f"Error: no run no-such-run; {hint}\n", 1)
        ended = invoke("cancel", ids["words"], *target)
        assert ended.stdout == f"run {ids['words']} had ended already: finished\n"


@pytest.mark.parametrize("how", ["url", "store"])
def test_cancel_ends_a_run_that_another_process_executes(serving: Any, store: str, invoke: Any, how: str) -> None:
    target = ("--url", serving.url) if how == "url" else ("--store", store)
    with SyncClient(serving.url) as client:
        id = client.start("hi", agent="endless").id
        done = invoke("cancel", id, *target)
        assert done.stdout.startswith(f"run {id}: cancelled after ")
        assert client.record(id).status == "cancelled"
    assert invoke("cancel", "no-such-run", *target).exit_code == 1


@pytest.mark.parametrize("how", ["url", "store"])
def test_follow_waits_while_a_person_is_asked(serving: Any, store: str, terminal: Callable[..., Any], how: str) -> None:
    target = ("--url", serving.url) if how == "url" else ("--store", store)
    with SyncClient(serving.url) as client:
        id = client.start("hi", agent="asks").id
        *_, (_, last) = client.follow(id)
        assert isinstance(last, RunFinishedEvent)
        assert isinstance(last.outcome, RunFinishedInterruptOutcome)
        following = terminal("follow", id, *target)
        following.expect(f"waits for a person's answer: gapless answer {id} {' '.join(target)}]")
        client.answer(id, [ResumeEntry(interrupt_id="i", status="resolved", payload="yes")])
        following.expect("resolved yes")
        assert following.ends() == 0


def test_a_table_on_a_terminal(serving: Any, terminal: Callable[..., Any]) -> None:
    with SyncClient(serving.url) as client:
        id = client.start("a question\nof two lines", agent="words").id
        list(client.follow(id))
    listed = terminal("runs", "--url", serving.url)
    listed.expect(f"{id} .*finished.*words.*a question of two lines")
    assert listed.ends() == 0


def test_no_server_is_said_at_once(invoke: Any) -> None:
    for command in (("runs",), ("follow", "r"), ("cancel", "r")):
        done = invoke(*command, "--url", "http://127.0.0.1:1")
        assert done.exit_code == 1
        assert done.stderr.startswith("Error: http://127.0.0.1:1 does not answer")
        assert "Start one with `gapless serve`" in done.stderr
        assert done.stderr.count("\n") == 1


def test_follow_survives_the_servers_death(
    server: Callable[..., Any], agents: str, store: str, terminal: Callable[..., Any]
) -> None:
    """SIGKILL in mid-answer; the next server on the store closes the run, and the follower reads to that end."""
    port = str(free_port())
    first = server(f"{agents}:endless", "--port", port, "--store", store)
    with SyncClient(first.url) as client:
        id = client.start("hi").id
    following = terminal("follow", id, "--url", first.url)
    following.expect("tick5 ")
    first.process.kill()
    following.expect("connection lost after event")
    server(f"{agents}:endless", "--port", port, "--store", store)
    following.expect("the worker that ran it was lost")
    assert following.ends() == 1


def test_who_was_told_of_a_run_and_once_more(server: Callable[..., Any], agents: str, store: str, invoke: Any) -> None:
    secret = "whsec_" + "c2VjcmV0" * 5
    nobody = f"http://127.0.0.1:{free_port()}/hook"
    options = ["http=true", "private=true", f"secret={secret}", f"url={nobody}"]
    told = [part for option in options for part in ("--notify", option)]
    serving = server(f"{agents}:words", "--port", "0", "--store", store, *told)
    with SyncClient(serving.url) as client:
        run_id = client.start("hi").id
        list(client.follow(run_id))
    for target in (("--url", serving.url), ("--store", store)):
        header, row = (line.split("\t") for line in invoke("notices", run_id, *target).stdout.splitlines())
        assert header == ["id", "type", "to", "status", "attempts", "next", "error"]
        assert row[1:4] == ["run.finished", "server", "pending"]
    again = invoke("notices", run_id, "--again", row[0], "--json", "--url", serving.url)
    assert json.loads(again.stdout)["id"] == row[0]
    unknown = invoke("notices", run_id, "--again", "msg_unknown", "--url", serving.url)
    assert (unknown.exit_code, unknown.stderr.startswith("Error: run ")) == (1, True)
