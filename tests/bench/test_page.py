"""The pages are measured in a real Chromium; where there is none, the report says why."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import page, window
from bench.harness import Bench, MeasurementFailed, Servers

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark reads Linux's CPU clocks")

ROOT = Path(__file__).parents[2]
S_MAX = 900
"""For what hangs: what npm installs and what is measured have bounds of their own (bench/page.py)."""


@pytest.mark.timeout(S_MAX)
def test_the_page_is_measured_while_a_long_answer_grows(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--only", "page", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=S_MAX)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "performance" / "results.json").read_text())["scenarios"]["page"]
    assert stored["skipped"] == {}
    assert [row["params"] for row in stored["rows"]] == [{"chars": 1_000}, {"chars": 100_000}]
    for row in stored["rows"]:
        values = {name: rounds[0] for name, rounds in row["values"].items()}
        assert values["chars_per_s"] > 0
        assert 0 < values["frame_p50_ms"] <= values["frame_p99_ms"] <= values["frame_max_ms"]
        assert values["task_ms_per_s"] > values["script_ms_per_s"] > 0
    assert "## The chat page" in (tmp_path / "performance.md").read_text()
    assert (tmp_path / "performance" / "page.svg").read_text().startswith("<svg")


@pytest.mark.timeout(S_MAX)
def test_the_windows_answers_are_timed_by_what_is_asked(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--only", "window", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=S_MAX)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "performance" / "results.json").read_text())["scenarios"]["window"]
    assert stored["skipped"] == {}
    asked = [row["params"]["what"] for row in stored["rows"]]
    assert (asked[0], asked[-1], window.FOUND in asked) == ("a status", "a run", True)
    assert all(ms > 0 for row in stored["rows"] for ms in row["values"]["ms"])
    assert "beside 5,000 runs in SQLite" in (tmp_path / "performance.md").read_text()


def test_without_npm_the_page_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = [sys.executable, "-c", "import sys; sys.exit('npm error network')"]
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    monkeypatch.setattr(page, "node", lambda: ("node", npm))
    with ExitStack() as stack:
        bench = Bench(True, 1, 60, [], Servers(stack))
        page.page(bench)
    assert bench.results.rows == {}
    assert "npm error network" in bench.results.skipped["page"]


def test_an_answer_that_stands_still_is_an_error_not_a_figure() -> None:
    level = {"chars": 1000, "errors": [], "grown": 0, "frames_ms": [16.7], "seconds": 1}
    with pytest.raises(MeasurementFailed, match="1000 characters"):
        page.figures(level)
