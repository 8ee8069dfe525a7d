"""The benchmark runs: its smallest scenario against the floor, and the report of what it measured."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from gapless.protocols import WIRES
from tests.support.waiting import HANG_S, WAIT_S

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark reads Linux's CPU clocks")


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANG_S)


def test_the_floor_is_measured_and_reported(tmp_path: Path) -> None:
    done = bench("--quick", "--only", "length", "--candidates", "asgi", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "performance" / "results.json").read_text())["scenarios"]["length"]
    assert stored["skipped"] == {}
    assert [row["params"] for row in stored["rows"]] == [{"events": 500}, {"events": 10_000}]
    assert all(row["values"]["cpu_us"][0] > 0 for row in stored["rows"])
    report = (tmp_path / "performance.md").read_text()
    assert "| bare ASGI (the floor) |" in report
    assert (tmp_path / "performance" / "length.svg").read_text().startswith("<svg")


def test_every_wire_is_measured(tmp_path: Path) -> None:
    done = bench("--quick", "--only", "encoding", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "performance" / "results.json").read_text())["scenarios"]["encoding"]
    assert stored["skipped"] == {}
    assert {row["candidate"] for row in stored["rows"]} == set(WIRES)
    assert all(row["values"]["cpu_us"][0] > 0 for row in stored["rows"])
    assert "| wire `openai-responses` |" in (tmp_path / "performance.md").read_text()


def test_what_checkpoints_cost_is_measured(tmp_path: Path) -> None:
    done = bench("--quick", "--only", "checkpoints", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "performance" / "results.json").read_text())["scenarios"]["checkpoints"]
    assert stored["skipped"] == {}
    assert [row["candidate"] for row in stored["rows"]] == ["pydantic-ai", "adk", "functions"]
    assert all(row["values"]["save_us"][0] > 0 for row in stored["rows"])
    assert "| a function with `ctx.step` |" in (tmp_path / "performance.md").read_text()


def test_what_adapters_add_to_their_frameworks_is_measured(tmp_path: Path) -> None:
    done = bench("--quick", "--only", "adapters", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "performance" / "results.json").read_text())["scenarios"]["adapters"]
    assert stored["skipped"] == {}
    assert [row["candidate"] for row in stored["rows"]] == ["pydantic-ai", "adk", "langgraph", "openai-agents"]
    assert all(row["values"]["memory"][0] > 0 < row["values"]["memory_ratio"][0] for row in stored["rows"])
    assert "| OpenAI Agents | " in (tmp_path / "performance.md").read_text()


def test_what_a_short_run_takes_is_counted(tmp_path: Path) -> None:
    done = bench("--quick", "--only", "short-run", "--candidates", "asgi", "gapless-sqlite", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "performance" / "results.json").read_text())["scenarios"]["short-run"]
    assert stored["skipped"] == {}
    floor, ours = (row["values"] for row in stored["rows"])
    assert floor["tasks"][0] < 1.5, "uvicorn makes one for a request"
    assert floor["bytecodes: the bare app"][0] < ours["bytecodes: gapless: runner"][0]
    assert "bytecodes: the bare app" not in ours, "counting is not counted"
    assert 10 < ours["functions"][0] < ours["different bytecodes"][0]
    total = sum(counts[0] for name, counts in ours.items() if name.startswith("bytecodes: "))
    assert floor["different bytecodes"][0] < ours["different bytecodes"][0] < total, "most come once in a run"
    assert ours["transactions that write"][0] >= 1
    assert ours["pages"][0] >= ours["transactions that write"][0], "each writes one at least"
    assert "| transactions that write | – |" in (tmp_path / "performance.md").read_text()


def test_what_a_goal_goes_by_is_measured_in_turns_and_the_rest_once() -> None:
    from bench.candidates import BY_NAME
    from bench.harness import Bench, Servers

    order = []
    with ExitStack() as stack:
        rounds = Bench(False, 3, WAIT_S, [], Servers(stack))
        names = ("asgi", "fastapi", "gapless-memory")
        candidates = [BY_NAME[name] for name in names]
        rounds.alternate(candidates, lambda candidate: order.append(candidate.name), often=("asgi", "gapless-memory"))
    assert order == [*names, "asgi", "gapless-memory", "asgi", "gapless-memory"]


def test_a_whole_run_is_within_its_time() -> None:
    from bench.scenarios import RUN_S_MAX, SCENARIOS

    assert sum(scenario.budget_s for scenario in SCENARIOS.values()) <= RUN_S_MAX


def test_an_interrupted_run_goes_on_with_what_it_has_not_measured(tmp_path: Path) -> None:
    from bench import osinfo

    stored = tmp_path / "performance" / "results.json"
    stored.parent.mkdir()
    before = {"when": "", "commit": osinfo.commit(ROOT), "quick": True, "seconds": 1, "skipped": {}, "rows": []}
    other = {**before, "commit": "another"}
    stored.write_text(json.dumps({"scenarios": {"length": before, "wires": other}}))
    done = bench("--quick", "--resume", "--only", "length", "wires", "--candidates", "asgi", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(stored.read_text())["scenarios"]
    assert found["length"] == before
    assert found["wires"]["rows"]


def test_frames_that_end_in_carriage_returns_are_counted() -> None:
    from bench.load import Load

    load = Load({"protocol": "langgraph", "deadline_s": WAIT_S, "port": 0, "connections": []})
    assert load.frames_in(b'data: [{"content":"AAAA"}]\r\n\r\n\r\n') == (b'data: [{"content":"AAAA"}]\r\n\r\n\r\n', b"")
    assert load.frames_in(b"data: 1\r\n\r\n\r\n0\r\n\r\n") == (b"data: 1\r\n\r\n\r\n", b"0\r\n\r\n")
    assert load.frames_in(b"data: 1\r\n") == (b"", b"data: 1\r\n")


def test_one_scenario_is_merged_into_stored_results(tmp_path: Path) -> None:
    stored = tmp_path / "performance" / "results.json"
    stored.parent.mkdir()
    earlier = {"when": "2026-01-01", "commit": "abc", "quick": False, "seconds": 1, "skipped": {}, "rows": []}
    stored.write_text(json.dumps({"scenarios": {"ramp": earlier}}))
    assert bench("--quick", "--only", "length", "--candidates", "asgi", "--out", tmp_path).returncode == 0
    assert json.loads(stored.read_text())["scenarios"]["ramp"] == earlier


def test_an_answer_that_is_not_as_expected_is_an_error_not_a_figure() -> None:
    from bench import process, protocols
    from bench.candidates import BY_NAME

    candidate = BY_NAME["asgi"]
    with process.serving(candidate) as server:
        request = {"send": protocols.start("sse", "k", '{"n": 3}'), "chars": 16}
        spec = {"port": server.port, "pids": server.pids, "protocol": "sse", "action": "sequence", "deadline_s": WAIT_S}
        result = process.load({**spec, "connections": [[request]]})
    assert result["errors"] == ["12 characters instead of 16"]


def test_a_level_whose_streams_do_not_start_in_time_is_not_one_that_held() -> None:
    from bench import process, protocols
    from bench.agents import script
    from bench.candidates import BY_NAME

    request = {"send": protocols.start("sse", "k", script(100, 50)), "chars": 400}
    with process.serving(BY_NAME["asgi"]) as server:
        spec = {"port": server.port, "pids": server.pids, "protocol": "sse", "action": "ramp", "deadline_s": WAIT_S}
        spec |= {"connections": [[request]], "levels": [1], "settle_s": 0.1, "window_s": 0.1, "late_s": WAIT_S}
        assert [step["streams"] for step in process.load({**spec, "fill_s": WAIT_S})["steps"]] == [1]
        assert process.load({**spec, "fill_s": -1})["steps"] == []


def test_durable_streams_are_made_then_followed_and_read_once_they_have_ended() -> None:
    from bench.agents import script
    from bench.candidates import BY_NAME
    from bench.harness import Bench, Servers

    candidate = BY_NAME["durable-streams"]
    with ExitStack() as stack:
        bench = Bench(True, 1, 60, [], Servers(stack))
        starter, late = bench.followed(candidate, script(300), 300, live=False)
        live = bench.load(bench.server(candidate), [[starter]], action="sequence")
        read = bench.load(bench.server(candidate), [[late]], action="sequence", protocol="durable-streams-caught-up")
    assert live["events"] == read["events"] == 300
    assert live["frames"] > read["frames"] == 0


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_what_holds_others_up_is_measured(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import gaps, process, report

    monkeypatch.setattr(gaps, "REST_S", 0.01)
    monkeypatch.setattr(gaps, "SETTLE_S", 0.01)
    monkeypatch.setattr(gaps, "all_at_once", asyncio.Event())
    with process.fresh_store(kind) as store:
        found = await gaps.measure(store, 0.005)
    assert list(found) == [subject for subject in report.GAPS if subject != "backup" or kind != "memory"]
    assert all(values["held_ms"] > 0 for values in found.values())
