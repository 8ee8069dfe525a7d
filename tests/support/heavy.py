"""Packages that are too large to be installed for every run of the tests: `scripts/test --heavy` brings them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

__all__ = ["MISSING", "PACKAGES", "Heavy", "has"]

PACKAGES = {
    "claude_agent_sdk": "claude-agent-sdk",
    "strands": "strands-agents",
    "agno": "agno",
    "llama_index": "llama-index-core",
}
"""By module, the distributions."""
MISSING = "not installed, as it is large: scripts/test --heavy"


def has(module: str) -> bool:
    return find_spec(module) is not None


class Heavy:
    """A plugin that says which tests were skipped because their packages are not here."""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        skipped = [report for report in terminalreporter.stats.get("skipped", ()) if MISSING in str(report.longrepr)]
        if skipped:
            missing = ", ".join(name for module, name in PACKAGES.items() if not has(module))
            terminalreporter.line(f"SKIPPED what needs {missing}: too large for this lane, run scripts/test --heavy")
