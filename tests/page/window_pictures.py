"""The pictures of the window that the documents show, of a real server: python -m tests.page.window_pictures FOLDER"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from gapless import Runner, create_app
from gapless.agents.base import AgentItem, RunContext
from gapless.events import (
    Interrupt,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from gapless.testing import serving
from tests.support.browser import Browser, browsing

EARLIER = (
    ("travel", "Trains from Aarhus to Hamburg on Friday"),
    ("support", "Where is order 4690?"),
    ("support", "fail"),
    ("travel", "A quiet hotel near the harbour, two nights"),
    ("support", "ask"),
)
SHOWN = "Has order 4711 come back, and what do we owe for it?"
THOUGHT = "It asks for two things: whether it came back, and the sum."
ANSWER = "Order 4711 came back on Monday. It was paid with a card: 59 EUR go back to it, within three days."


async def answers(ctx: RunContext) -> AsyncIterator[AgentItem]:
    if ctx.message == "fail":
        raise ConnectionError
    if ctx.message == "ask":
        await ctx.interrupt([Interrupt(id="i", reason="tool_call", message="Refund 59 EUR for order 4711?")])
        return
    await asyncio.sleep(0.7)
    yield ReasoningMessageStartEvent(message_id="r")
    for word in THOUGHT.split():
        yield ReasoningMessageContentEvent(message_id="r", delta=f"{word} ")
        await asyncio.sleep(0.03)
    yield ReasoningMessageEndEvent(message_id="r")
    for name, arguments, result, wait_s in (
        (
            "find_order",
            '{"order": "4711"}',
            '{"status": "returned", "day": "Monday", "paid": 59, "currency": "EUR"}',
            1.6,
        ),
        ("find_payment", '{"order": "4711", "kind": "card"}', '{"card": "ending in 4242", "refundable": true}', 0.4),
    ):
        yield ToolCallStartEvent(tool_call_id=name, tool_call_name=name)
        yield ToolCallArgsEvent(tool_call_id=name, delta=arguments)
        yield ToolCallEndEvent(tool_call_id=name)
        await asyncio.sleep(wait_s)
        yield ToolCallResultEvent(message_id=f"{name}-result", tool_call_id=name, content=result)
    await asyncio.sleep(0.5)
    ctx.add_usage(TokenUsage(provider="openai", model="gpt-4o", input_tokens=2140, output_tokens=61))
    ctx.add_usage(
        TokenUsage(provider="openai", model="gpt-4o", input_tokens=2390, output_tokens=48, cached_input_tokens=2048)
    )
    for word in ANSWER.split():
        yield f"{word} "
        await asyncio.sleep(0.04)


async def other(ctx: RunContext) -> AsyncIterator[AgentItem]:
    await asyncio.sleep(0.3)
    yield "The 9:24 goes through, and is there at 13:02."


ASK = """([agent, message]) => fetch("runs", {method: "POST", headers: {"content-type": "application/json"},
    body: JSON.stringify({agent, message})}).then((it) => it.json()).then((it) => it.id)"""


def take(browser: Browser, url: str, folder: Path) -> None:
    browser.do("viewport", width=1180, height=860)
    browser.do("scheme", value="light")
    browser.do("goto", url=f"{url}/runs")
    for asked in EARLIER:
        browser.evaluate(ASK, list(asked))
    run_id = browser.evaluate(ASK, ["support", SHOWN])
    finished = f"fetch('runs/{run_id}').then((it) => it.json()).then((it) => it.status === 'finished')"
    browser.until(f"() => {finished}")
    browser.do("goto", url=f"{url}/runs#{run_id}")
    browser.do("reload")
    browser.until(
        "() => document.querySelector('[data-what=finished]') && document.querySelectorAll('#runs li').length > 5"
    )
    browser.do("screenshot", path=str(folder / "window.png"))
    browser.do("scheme", value="dark")
    browser.do("screenshot", path=str(folder / "window-dark.png"))
    browser.do("scheme", value="light")
    browser.do("viewport", width=390, height=780)
    browser.do("screenshot", path=str(folder / "window-phone.png"))


if __name__ == "__main__":
    with (
        serving(create_app(Runner(agents={"support": answers, "travel": other}), operators=["anonymous"])) as url,
        browsing() as browser,
    ):
        take(browser, url, Path(sys.argv[1]))
