"""Processes of this machine: which are certainly gone."""

from __future__ import annotations

import os
import subprocess
import sys

from gapless.journals.process import is_gone, this_process

NAME = "from gapless.journals.process import this_process; print(this_process(), flush=True); input()"


def test_a_process_is_there_until_it_ends():
    child = subprocess.Popen([sys.executable, "-c", NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    named = child.stdout.readline().strip()
    assert not is_gone(named)
    assert not is_gone(this_process())
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has its exit status yet
    assert is_gone(named)
    child.communicate()
    assert is_gone(named)


def test_another_process_under_the_same_pid_is_another_one():
    machine, pid, started = this_process().rsplit(" ", 2)
    assert is_gone(f"{machine} {pid} {int(started) - 1}")


def test_what_ran_before_the_machine_was_started_anew_is_gone():
    _, namespace, pid, started = this_process().split(" ")
    assert is_gone(f"another-boot {namespace} {pid} {started}")


def test_of_another_namespace_nothing_is_known():
    boot, _, pid, started = this_process().split(" ")
    assert not is_gone(f"{boot} pid:[1] {pid} {int(started) - 1}")


def test_nothing_is_known_where_processes_cannot_be_told_apart():
    assert not is_gone(" 1 1")
