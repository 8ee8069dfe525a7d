"""ADK's own web page, in Chromium: how much of an answer it shows when its stream was cut, and when it is loaded again.

Started by the matrix, as its scripts in JavaScript are.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

from tests.matrix.cases import GIVEN, MODEL, Case, Told
from tests.support.browser import Browser, browsing
from tests.support.rich import TEXT

CLIENTS = {"adk-page": "false", "adk-page-streaming": "true"}
"""What the page's switch `Streaming` says."""
CASES = ("text",)
LINES = [int(found) for piece in TEXT for found in re.findall(r"word(\d+)", piece)]
STILL_S = 1.5
"""A page that has said nothing new for so long says nothing more."""
SHOWN_S_MAX = 15.0
"""A page that shows nothing of the answer by then shows nothing of it."""
_SHOWN = "() => document.body.innerText"
_SWITCH = "(on) => { localStorage['adk-use-sse'] = on; localStorage['adk-side-panel-visible'] = 'false'; }"


def shown(browser: Browser, tab: str) -> str:
    """How much of the text the page shows, once it says nothing new."""
    seen, lines = "", list[int]()
    deadline, still = time.monotonic() + SHOWN_S_MAX, time.monotonic()
    while time.monotonic() < (still + STILL_S if lines else deadline):
        now = browser.evaluate(_SHOWN, tab=tab)
        if now != seen:
            seen, still = now, time.monotonic()
        lines = [int(found) for found in re.findall(r"\bword(\d+)", seen)]
        time.sleep(0.1)
    if lines == LINES:
        return "exact"
    if lines == LINES[: len(lines)]:
        return f"the first {len(lines)} of {len(LINES)} lines"
    return f"other lines: {lines}"


def tell(browser: Browser, case: Case) -> Told:
    browser.do("goto", case.name, url=f"{case.url}/version")
    browser.evaluate(_SWITCH, CLIENTS[case.client], tab=case.name)
    browser.do("goto", case.name, url=f"{case.url}/dev-ui/?app={MODEL}")
    browser.until("() => document.querySelector('textarea')", tab=case.name)
    browser.do("fill", case.name, selector="textarea", value=case.message)
    browser.do("press", case.name, selector="textarea", key="Enter")
    case.run()
    first = shown(browser, case.name)
    browser.do("reload", case.name)
    return {"none": f"{first}; loaded again: {shown(browser, case.name)}"}


def names() -> Iterator[str]:
    only = GIVEN["only"]
    for client in only["clients"] or CLIENTS:
        for cut in GIVEN["urls"]:
            for kind in only["cases"] or CASES:
                if client in CLIENTS and kind in CASES:
                    yield f"{client}.{cut}.{kind}"


if __name__ == "__main__":
    results = {}
    with browsing() as browser:
        for name in names():
            try:
                results[name] = tell(browser, Case(name))
            except AssertionError as error:
                results[name] = {"failed": str(error)}
    Path(GIVEN["report"]).write_text(json.dumps({"results": results}))
