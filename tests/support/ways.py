"""The two ways of a model's deltas: taken at the model, or through the framework's graph of events.

Which one a run takes depends on who watches the graph. What a run says must not, so tests that are marked
`both_ways` run on both.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

__all__ = ["MARKER", "Ways", "through_the_graph"]

MARKER = "both_ways"
"""The marker: `pytestmark = pytest.mark.both_ways` for a module, `@pytest.mark.both_ways` for a test or a class."""
WAYS = ("at the model", "through the graph")
WATCHED_BY = (
    "gapless.agents.pydantic_ai.watched_by",
    "gapless.agents.adk_tap.watched_by",
    "gapless.agents.openai_agents_tap.watched_by",
)


def through_the_graph(patch: pytest.MonkeyPatch) -> None:
    """Let every run in this process take the way through the graph, as if something there watched."""
    for name in WATCHED_BY:
        patch.setattr(name, lambda *_: "a test")


class Ways:
    """Runs each test that says so on both."""

    @pytest.fixture(autouse=True)  # pytest drops what only parametrizing has asked for
    def way(self, request: pytest.FixtureRequest) -> Iterator[str]:
        way: str = getattr(request, "param", WAYS[0])
        with pytest.MonkeyPatch.context() as patch:
            if way == WAYS[1]:
                through_the_graph(patch)
            yield way

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if metafunc.definition.get_closest_marker(MARKER) is not None:
            metafunc.parametrize("way", WAYS, indirect=True)
