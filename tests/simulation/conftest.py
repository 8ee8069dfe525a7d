"""`python -m pytest tests/simulation -s --seed N` runs the one schedule of that seed and shows all of it."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="run this schedule of the simulation only, with its trace")
