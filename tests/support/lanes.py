"""Which tests `--fast` leaves out, which run apart from their file's others, and which begin first and last.

`scripts/test` runs several processes, and gives each a group of tests at a time (`forks.py`). A group
is a file, because a file's tests share what is dear: servers, a browser, a cluster. The tests of files in `APART` share
nothing, and are groups of their own. What takes long begins first, so that no process is left alone with it at the end.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

SLOW = (
    "tests/agents/test_published_examples.py",
    "tests/attacks/test_attack.py::test_for_some_seconds_all_holds",
    "tests/bench/",
    "tests/deploy/",
    "tests/e2e/",
    "tests/examples/",
    "tests/faults/",
    "tests/goes_on/",
    "tests/journals/test_postgres_access.py",
    "tests/journals/test_postgres_backup.py",
    "tests/journals/test_postgres_failover.py",
    "tests/journals/test_postgres_pgbouncer.py",
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
    "tests/agents/test_model_classes.py",
    "tests/examples/",
    "tests/deploy/",
    "tests/goes_on/",
    "tests/page/",
    "tests/client/",
    "tests/bench/",
    "tests/agents/test_adk_checkpoints.py",
    "tests/journals/test_redis_failover.py",
    "tests/protocols/test_resume.py",
    "tests/journals/test_redis.py",
    "tests/journals/test_postgres.py",
    "tests/agents/",
    "tests/e2e/",
    "tests/protocols/openai/",
    "tests/journals/",
    "tests/attacks/",
    "tests/protocols/",
    "tests/faults/",
    "tests/cli/",
)
"""By how long their longest group takes."""

LAST = ("tests/simulation/",)
"""Many short ones that wait for nothing: they fill what is left at the end, so that all processes end together."""


def is_slow(nodeid: str) -> bool:
    return nodeid.startswith(SLOW)


def group(nodeid: str) -> str:
    """The tests that run in one process, one after another."""
    return nodeid if nodeid.startswith(APART) else nodeid.partition("::")[0]


def in_order(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The items of groups that take long before the others; each group as it was."""

    def place(item: pytest.Item) -> int:
        rest = len(FIRST) + item.nodeid.startswith(LAST)
        return next((n for n, prefix in enumerate(FIRST) if item.nodeid.startswith(prefix)), rest)

    return sorted(items, key=place)
