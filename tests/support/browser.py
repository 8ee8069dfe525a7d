"""A real headless Chromium, driven from Python through a small Node script."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.node import NODE, install

TESTS = Path(__file__).parent.parent


class Browser:
    """One browser; `tab` names its pages."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the browser is gone"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def do(self, op: str, tab: str = "one", **options: Any) -> Any:
        """Run a command of driver.mjs and wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, "tab": tab, **options}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def until(self, script: str, value: Any = None, *, tab: str = "one") -> Any:
        """Until a JavaScript function of `value` returns something true in the page; returns that."""
        return self.do("until", tab, script=script, value=value)

    def evaluate(self, script: str, value: Any = None, *, tab: str = "one") -> Any:
        return self.do("evaluate", tab, script=script, value=value)


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """A browser that ends with the block."""
    install(TESTS / "page")
    command = [NODE, str(TESTS / "support" / "driver.mjs")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS / "page")
    try:
        yield Browser(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
