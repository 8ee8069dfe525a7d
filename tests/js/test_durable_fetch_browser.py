"""The durable fetch in a real Chromium: the page's own network stack, cut."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from gapless.runs.runner import Runner
from gapless.server import create_app
from gapless.testing import CutKind, Cutter, serving
from tests.support.browser import Browser, browsing
from tests.support.rich import ITEMS, rich
from tests.support.sse import frames

CUTS = 10
ASK = """async (chat) => {
    const { createDurableFetch } = await import("/static/client.js");
    const durable = createDurableFetch({ limits: { retryDelayMsMin: 1, retryDelayMsMax: 5 } });
    const messages = [{ id: "u", role: "user", parts: [{ type: "text", text: "rich 3" }] }];
    const response = await durable("/vercel/chat", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ id: chat, messages, trigger: "submit-message" }),
    });
    return { text: await response.text(), run: response.headers.get("x-run-id"), url: response.url };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.mark.parametrize("kind", ["abrupt", "mid-frame", "clean"])
def test_every_frame_once_through_ten_cuts(browser: Browser, kind: CutKind) -> None:
    with serving(create_app(Runner(rich))) as url, Cutter(url, kind, cuts=CUTS) as proxy:
        browser.do("goto", url=f"{proxy.url}/health")
        told = browser.evaluate(ASK, f"chat-{kind}")
        assert proxy.cuts[told["run"]] == CUTS
        assert told["url"] == f"{proxy.url}/vercel/chat"
    seen = frames(told["text"].encode())
    ids = [frame.id for frame in seen]
    assert len(set(ids)) == len(ids)
    assert (seen[-2].data, seen[-1].event) == ("[DONE]", "end")
    deltas = [json.loads(frame.data) for frame in seen[:-2]]
    assert "".join(chunk["delta"] for chunk in deltas if chunk["type"] == "text-delta") == ITEMS
