"""ADK's own web page, in Chromium: how much of an answer it shows when its stream is cut, and when it is loaded again.

Started by the matrix, as its scripts in JavaScript are.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from tests.support.browser import Browser, browsing
from tests.support.rich import TEXT

GIVEN = json.loads(os.environ["GAPLESS_TEST"])
URLS: dict[str, str] = GIVEN["urls"]
CASES = ("text", "media")
LINES = [int(found) for piece in TEXT for found in re.findall(r"word(\d+)", piece)]
STILL_MS = 1500
"""A page that has said nothing new for so long says nothing more."""
_STILL = f"""async () => {{
  for (let seen = ''; ; await new Promise((done) => setTimeout(done, {STILL_MS}))) {{
    const now = document.body.innerText;
    if (now === seen && now.includes('word')) return true;
    seen = now;
  }}
}}"""


def shown(browser: Browser, tab: str) -> str:
    browser.until(_STILL, tab=tab)
    lines = [
        int(found) for found in re.findall(r"\bword(\d+)", browser.evaluate("() => document.body.innerText", tab=tab))
    ]
    if lines == LINES:
        return "whole"
    return f"the first {len(lines)} of {len(LINES)} lines" if lines == LINES[: len(lines)] else f"other lines: {lines}"


def tell(browser: Browser, name: str) -> dict[str, Any]:
    _, cut, case = name.split(".")
    browser.do("goto", name, url=f"{URLS[cut]}/dev-ui/?app=agent")
    browser.until("() => document.querySelector('textarea')", tab=name)
    browser.do("fill", name, selector="textarea", value=f"{case} {name}")
    browser.do("press", name, selector="textarea", key="Enter")
    first = shown(browser, name)
    browser.do("reload", name)
    return {"none": f"{first}; loaded again: {shown(browser, name)}"}


def main() -> None:
    results = {}
    with browsing() as browser:
        for cut in URLS:
            for case in CASES:
                name = f"adk-page.{cut}.{case}"
                results[name] = tell(browser, name)
    Path(GIVEN["report"]).write_text(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
