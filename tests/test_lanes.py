"""Tests that share what is dear run in one process, those that take long first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import lanes, unsteady

ROOT = Path(__file__).parents[1]
CONFTEST = """
from tests.support import forks, unsteady

def pytest_configure(config):
    config.pluginmanager.register(unsteady.Unsteady())
    config.pluginmanager.register(forks.Forks(2))
"""
FIRST = """
import os, pathlib, sys
import pytest

@pytest.fixture(scope="module")
def shared():
    yield print("made in", os.getpid())
    print("let go of in", os.getpid())

@pytest.mark.parametrize("number", range(9))
def test_shared(number, shared, tmp_path):
    print("used in", os.getpid(), tmp_path)
    assert number != 3, "as it should"
"""
SECOND = """
import os, warnings

def test_prints():
    print("nothing of the first file's")

def test_warns():
    warnings.warn("mind the step")

def test_ends_its_process():
    os._exit(7)

def test_does_not_run():
    pass
"""
UNSTEADY = """
import pytest

seen = set()

@pytest.mark.parametrize("number", range(%d))
def test_unsteady(number):
    first = number not in seen
    seen.add(number)
    assert not first, f"for the first time {number}"

def test_holds():
    pass
"""


def pytest_in_forks(folder: Path, files: dict[str, str], *options: str, code: int = 1) -> str:
    (folder / "conftest.py").write_text(CONFTEST)
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    command = [sys.executable, "-m", "pytest", "-rP", *options, "--rootdir", folder, folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    told: str = done.stdout
    return told


def test_a_file_is_a_group_unless_its_tests_run_apart():
    assert lanes.group("tests/js/test_js_clients.py::test_a[x]") == "tests/js/test_js_clients.py"
    assert lanes.group("tests/cli/test_serve.py::test_a[x::y]") == "tests/cli/test_serve.py::test_a[x::y]"


def test_a_group_runs_in_one_process_and_what_it_came_to_is_told(tmp_path: Path):
    files = {"a/test_first.py": FIRST, "a/test_third.py": "def test_it(): pass", "b/test_second.py": SECOND}
    told = pytest_in_forks(tmp_path, files)
    used = re.findall(r"^used in (\d+) (.*)/", told, re.M)
    assert len(used) == 9
    assert len(set(used)) == 1
    ((pid, folder),) = set(used)
    assert re.findall(r"^made in (\d+)$", told, re.M) == re.findall(r"^let go of in (\d+)$", told, re.M) == [pid]
    assert "/process-" in folder
    assert told.count("as it should") >= 1
    assert told.count("nothing of the first file's") == 1
    assert told.count("UserWarning: mind the step") == 1
    assert "its process ended, and the rest of its group has not run" in told
    assert "2 failed, 11 passed, 1 warning" in told


@pytest.mark.parametrize(("count", "code"), [(unsteady.UNSTEADY_MAX, 0), (unsteady.UNSTEADY_MAX + 1, 1)])
def test_a_few_tests_may_hold_when_run_once_more_and_how_they_failed_is_told(count: int, code: int, tmp_path: Path):
    told = pytest_in_forks(tmp_path, {"a/test_it.py": UNSTEADY % count}, "--reruns", "1", code=code)
    assert f"{count + 1} passed, {count} rerun" in told
    for number in range(count):
        assert f"UNSTEADY a/test_it.py::test_unsteady[{number}]" in told
        assert f"Error: for the first time {number}" in told


def test_what_fails_once_more_fails(tmp_path: Path):
    told = pytest_in_forks(tmp_path, {"a/test_it.py": "def test_fails(): assert False, 'for good'"}, "--reruns", "1")
    assert "1 failed, 1 rerun" in told
    assert "UNSTEADY" not in told
