"""Where the time goes: samples find their layer, a real server is profiled, a machine that refuses is named."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import profile, report
from bench.harness import Bench, Servers

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark reads Linux's CPU clocks")

RUN = "Runner.run (/usr/lib/python3.11/asyncio/runners.py:118)"
TIMER = "TimerHandle__run (/project/uvloop/loop.c:74178)"
SEND = "RequestResponseCycle.send (/v/site-packages/uvicorn/protocols/http/httptools_impl.py:544)"
FOLLOW = "EventStream._stream (/src/gapless/http/stream.py:163)"


@pytest.mark.parametrize(
    ("stack", "layer"),
    [
        ([RUN, FOLLOW, SEND, "try_write (/uvloop/loop.c:1)", "write (/usr/lib/libc.so.6)"], "the kernel"),
        ([RUN, FOLLOW, SEND, "UVStream__exec_write (/project/uvloop/loop.c:2)"], "the event loop"),
        ([RUN, FOLLOW, SEND], "the HTTP server"),
        ([RUN, TIMER, FOLLOW], "gapless: server"),
        ([RUN, "Execution._pump (/src/gapless/runs/execution.py:200)"], "gapless: runner"),
        ([RUN, "Journal.append (/src/gapless/journals/journal.py:2)", "free (_core.so)"], "gapless: journals"),
        ([RUN, "run (/v/pydantic_ai/_utils.py:8)", "f (/v/anyio/_backends/_asyncio.py:4)"], "its framework"),
        ([RUN, "generator_agent (/bench/agents.py:61)", "sleep (/asyncio/tasks.py:640)", TIMER], profile.AGENT),
        ([RUN, TIMER], "the event loop"),
        ([RUN], "the event loop"),
        (["work (/somewhere/else.py:3)"], "other"),
    ],
)  # fmt: skip
def test_a_sample_counts_for_the_part_that_called_for_it(stack: list[str], layer: str) -> None:
    assert profile.layer_of(stack) == layer


def test_samples_are_summed_by_layer_and_by_function() -> None:
    layers, functions = profile.summed(f"{RUN};{FOLLOW} 3\n{RUN};{FOLLOW};{SEND};write (/usr/lib/libc.so.6) 5\n")
    assert layers == {"gapless: server": 3, "the kernel": 5}
    assert functions == {
        "EventStream._stream (http/stream.py)": 3,
        "RequestResponseCycle.send (http/httptools_impl.py)": 5,
    }


def profiled(out: Path) -> tuple[dict[str, str], str]:
    """A quick profile of the floor: what was left out and the report."""
    with ExitStack() as stack:
        bench = Bench(True, 1, 60, ["asgi"], Servers(stack))
        profile.profile(bench)
    scenario = {
        "when": "", "commit": "", "quick": True, "seconds": 1, "others_share": 0.0,
        "skipped": bench.results.skipped, "rows": list(bench.results.rows.values()),
    }  # fmt: skip
    return bench.results.skipped, report.write({"scenarios": {"profile": scenario}}, out).read_text()


@pytest.mark.skipif(not profile.PY_SPY.exists(), reason="py-spy comes with the benchmark's own environment")
def test_the_floor_is_profiled(tmp_path: Path) -> None:
    skipped, text = profiled(tmp_path)
    if skipped:
        pytest.skip(f"this machine lets nobody be profiled: {skipped}")
    assert "## Where the time goes" in text
    assert "| the kernel |" in text


def test_a_machine_that_refuses_the_profiler_is_named_and_the_report_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "py-spy"
    refusing.write_text("#!/bin/sh\necho 'Permission Denied: ptrace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(profile, "PY_SPY", refusing)
    skipped, text = profiled(tmp_path)
    assert skipped == {"asgi": "py-spy gave nothing: Permission Denied: ptrace"}
    assert "## Not measured" in text
    assert "* asgi (profile): py-spy gave nothing: Permission Denied: ptrace" in text
