"""Tests that failed, and held when they were run once more: `--reruns 1` of pytest-rerunfailures, as CI does.

On a machine that others use too, a test of processes and browsers may meet a minute in which nothing moves. It does not
hold up what is right, and is not passed over: how it failed is printed in full, and more than `UNSTEADY_MAX` of them
fail the whole, as that is not the machine."""

from __future__ import annotations

import pytest

__all__ = ["UNSTEADY_MAX", "Unsteady"]

UNSTEADY_MAX = 2


class Unsteady:
    """A plugin that knows each test that was run once more."""

    def __init__(self) -> None:
        self._first: dict[str, pytest.TestReport] = {}
        self._failed: set[str] = set()

    @property
    def held(self) -> list[pytest.TestReport]:
        """The failures of tests that held at last."""
        return [report for name, report in self._first.items() if name not in self._failed]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]  # what pytest-rerunfailures adds
            self._first.setdefault(report.nodeid, report)
        elif report.failed:
            self._failed.add(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if len(self.held) > UNSTEADY_MAX and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.held:
            return
        terminalreporter.section(f"unsteady: failed, and held when run once more (at most {UNSTEADY_MAX} may)")
        for report in self.held:
            terminalreporter.section(report.nodeid, "_")
            report.toterminal(terminalreporter._tw)
        for report in self.held:
            terminalreporter.line(f"UNSTEADY {report.nodeid}")
