"""Instructions are counted in a process whose clock is slow; where the tools for it are missing, that is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import counts
from tests.support.waiting import HANG_S

ROOT = Path(__file__).parents[2]
SLOWER = 20
PROGRAM = """
import asyncio, threading, time, uvloop

async def main():
    before = time.monotonic()
    await asyncio.sleep(0.005)
    threading.Event().wait(0.005)
    return time.monotonic() - before

day = time.time()
print(uvloop.run(main()), time.time() - day)
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark reads Linux's CPU clocks")


def test_instructions_are_told_by_the_library_that_they_are_in() -> None:
    """What a call takes is written beside it, and once more where it is spent."""
    dump = """
ob=(1) /usr/bin/python3.11
fn=(1) main
10 100
+2 20
cob=(2) /lib/x86_64-linux-gnu/libsqlite3.so.0.8.6
cfn=(2) sqlite3_step
calls=3 5
10 700
* 5
ob=(2)
fn=(2)
5 700
ob=(3) /venv/lib/python3.11/site-packages/uvloop/loop.cpython-311-x86_64-linux-gnu.so
fn=(3) run
-4 30
totals: 855
"""
    assert counts.by_library(dump) == {"the interpreter": 125, "libsqlite3": 700, "uvloop": 30}
    assert counts.library_of("/usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so") == "_json"


def test_lines_of_memory_are_those_that_no_simulated_cache_has() -> None:
    dump = """
events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw
fn=(1) main
10 100 50 20 7 5 3 1 2 4
totals: 100 50 20 7 5 3 1 2 4
"""
    assert counts.lines_of(dump) == 7
    assert counts.lines_of("events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw\ntotals: 9 8\n") == 0, "zeros are left out"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_slow_process_waits_as_long_by_its_own_clock(tmp_path: Path) -> None:
    library = tmp_path / "slowly.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, ROOT / "bench" / "slowly.c", "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "SLOWER": str(SLOWER)}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True, timeout=HANG_S
    )
    took_s = time.monotonic() - began
    waited_s, of_the_day_s = map(float, done.stdout.split())
    assert waited_s >= 0.0099
    assert took_s >= SLOWER * 0.0099
    assert 0.0099 <= of_the_day_s <= took_s / SLOWER, "the time of day goes as slowly"


def test_nothing_is_counted_without_the_tools(tmp_path: Path) -> None:
    git = shutil.which("git")
    assert git is not None
    (tmp_path / "git").symlink_to(git)
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--only", "counts", "--out", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "performance" / "results.json").read_text())["scenarios"]["counts"]
    assert stored["skipped"] == {"all": "valgrind, vgdb, cc: not installed"}
    assert "valgrind, vgdb, cc: not installed" in (tmp_path / "performance.md").read_text()
