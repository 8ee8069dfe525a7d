"""Which tests `--fast` leaves out, which run apart from their file's others, and which begin first.

`scripts/test` runs several processes, and gives each a group of tests at a time (pytest-xdist's `loadgroup`). A group
is a file, because a file's tests share what is dear: servers, a browser, a cluster. The tests of files in `APART` share
nothing, and are groups of their own. What takes long begins first, so that no process is left alone with it at the end.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

SLOW = (
    "tests/agents/test_published_examples.py",
    "tests/bench/",
    "tests/deploy/",
    "tests/e2e/",
    "tests/examples/",
    "tests/faults/",
    "tests/journals/test_redis_failover.py",
    "tests/js/",
    "tests/page/",
    "tests/simulation/test_simulation.py::test_every_schedule_keeps_the_invariants",
)
"""What is not in the lane that runs before each commit."""

APART = (
    "tests/agents/test_published_examples.py",
    "tests/cli/",
    "tests/faults/",
    "tests/simulation/",
)

FIRST = (
    "tests/js/test_js_clients.py",
    "tests/page/",
    "tests/bench/test_page.py",
    "tests/examples/",
    "tests/simulation/",
    "tests/faults/",
    "tests/deploy/",
    "tests/journals/test_redis_failover.py",
    "tests/journals/test_redis_creation.py",
    "tests/client/",
    "tests/bench/",
    "tests/e2e/",
    "tests/agents/",
    "tests/cli/",
    "tests/journals/",
)
"""By how long their longest group takes."""


def is_slow(nodeid: str) -> bool:
    return nodeid.startswith(SLOW)


def group(nodeid: str) -> str:
    """The tests that run in one process, one after another."""
    return nodeid if nodeid.startswith(APART) else nodeid.partition("::")[0]


def in_order(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The items of groups that take long before the others; each group as it was."""

    def place(item: pytest.Item) -> int:
        return next((n for n, prefix in enumerate(FIRST) if item.nodeid.startswith(prefix)), len(FIRST))

    return sorted(items, key=place)
