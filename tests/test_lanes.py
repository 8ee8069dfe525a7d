"""Tests that share what is dear run in one process, those that take long first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import lanes

ROOT = Path(__file__).parents[1]
CONFTEST = """
import pytest
from tests.support import lanes

def pytest_xdist_make_scheduler(config, log):
    return lanes.Groups(config, log)
"""
SHARING = """
import os, pathlib
import pytest

@pytest.mark.parametrize("number", range(9))
def test_where(number):
    with pathlib.Path({found!r}).open("a") as found:
        found.write(f"{{os.getpid()}}\\n")
"""


def test_a_file_is_a_group_unless_its_tests_run_apart():
    assert lanes.group("tests/js/test_js_clients.py::test_a[x]") == "tests/js/test_js_clients.py"
    assert lanes.group("tests/cli/test_serve.py::test_a[x::y]") == "tests/cli/test_serve.py::test_a[x::y]"


def test_the_tests_of_a_group_run_in_one_process(tmp_path: Path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    files = [tmp_path / f"test_{name}.py" for name in "ab"]
    for file in files:
        file.write_text(SHARING.format(found=str(file.with_suffix(".found"))))
    several = ["--numprocesses", "2", "--dist", "loadscope", "--no-loadscope-reorder"]
    command = [sys.executable, "-m", "pytest", *several, "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for file in files:
        pids = file.with_suffix(".found").read_text().split()
        assert len(pids) == 9
        assert len(set(pids)) == 1


def test_each_of_several_processes_has_the_order_of_all(request: pytest.FixtureRequest):
    if not hasattr(request.config, "workerinput"):
        pytest.skip("all tests run in one process")
    assert request.session.items == lanes.in_order(request.session.items)
