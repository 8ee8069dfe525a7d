"""The door: what users name is imported from `gapless`, at its first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gapless
from gapless import events
from tests.support.waiting import HANG_S


@pytest.mark.parametrize("name", gapless.__all__)
def test_a_name_leads_to_what_has_it(name: str):
    value = getattr(gapless, name)
    assert not isinstance(value, type) or value.__name__ == name
    assert value is not None
    assert name in dir(gapless)


def test_there_is_nothing_else():
    assert not hasattr(gapless, "_Struct")
    assert sorted(set(gapless.__all__)) == sorted(gapless.__all__)


def test_each_kind_of_event_can_be_named():
    kinds = {name for name in events.__all__ if name.endswith("Event")}
    assert len(kinds) == 32  # AG-UI 1.0 has 31, and `Event` is any of them
    assert kinds <= set(gapless.__all__)


def test_importing_the_package_imports_nothing_else():
    program = "import sys; before = set(sys.modules); import gapless; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names == {"gapless"}
    assert not {name for name in done.stdout.split() if name.startswith("gapless.")}
