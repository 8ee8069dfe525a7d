"""A live agent is talked to on the page: a real server, a real WebSocket, a microphone that beeps."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest

from gapless import Runner, create_app
from gapless.agents.base import AgentItem, RunContext
from gapless.events import CustomEvent, text_of
from gapless.testing import serving
from tests.support.browser import browsing

HEARD_BYTES = 32_000
"""A second of 16-bit samples at 16 kHz."""
SOUND = base64.b64encode(bytes(2400)).decode()

COUNT_SPEAKING = """() => {
  window.spoke = 0;
  const bar = document.getElementById("talking");
  new MutationObserver(() => (window.spoke += 1)).observe(bar, { attributeFilter: ["data-speaking"] });
}"""


async def listener(ctx: RunContext) -> AsyncIterator[AgentItem]:
    """Says when it has heard a second of sound that is no silence, and what was typed."""
    heard = b""
    async for request in ctx.live:
        if request.blob is not None:
            before, heard = len(heard), heard + request.blob.data
            if before < HEARD_BYTES <= len(heard):
                yield "I hear you. " if any(heard) else "I hear nothing. "
                yield CustomEvent(name="gapless.audio", value={"mimeType": "audio/pcm;rate=24000", "data": SOUND})
        elif request.content is not None:
            yield f"You typed: {text_of(request.content)}. "
    yield "Goodbye."


async def echo(message: str) -> AsyncIterator[str]:
    yield message


@pytest.mark.parametrize("size", [(1180, 860), (390, 780)], ids=["at a desk", "on a phone"])
def test_a_live_agent_is_talked_to(size: tuple[int, int]) -> None:
    app = create_app(Runner(agents={"listener": listener, "echo": echo}))
    with serving(app) as url, browsing() as browser:
        width, height = size
        browser.do("goto", url=url)
        browser.do("viewport", width=width, height=height)
        browser.until("() => document.getElementById('agent').options.length === 2")
        browser.evaluate(COUNT_SPEAKING)
        browser.do("click", selector="[data-testid=more]")
        browser.do("click", selector="[data-testid=talk]")
        browser.until("() => document.getElementById('messages').textContent.includes('I hear you.')")
        browser.until("() => window.spoke > 0")
        browser.do("fill", selector="#message", value="a word")
        browser.do("press", selector="#message", key="Enter")
        browser.until("() => document.getElementById('messages').textContent.includes('You typed: a word.')")
        assert browser.evaluate("() => document.querySelector('.text.user').textContent") == "a word"
        browser.do("click", selector="[data-testid=mute]")
        browser.do("click", selector="[data-testid=hang-up]")
        browser.until("() => document.querySelector('.turn[data-status=finished]')")
        browser.until("() => document.getElementById('talking').hidden")
        shown = "() => document.getElementById('messages').innerText.replace(/\\s+/g, ' ')"
        assert "I hear you." in browser.evaluate(shown)
        assert "Goodbye." in browser.evaluate(shown)
        browser.do("reload")
        browser.until("() => document.querySelector('.turn[data-status=finished]')")
        again = browser.evaluate(shown)
        said = [again.find(part) for part in ("I hear you.", "a word", "You typed: a word.", "Goodbye.")]
        assert -1 not in said
        assert said == sorted(said)
        assert browser.do("errors") == []


def test_an_agent_that_is_not_live_is_not_called() -> None:
    with serving(create_app(Runner(echo))) as url, browsing() as browser:
        browser.do("goto", url=url)
        browser.do("click", selector="[data-testid=more]")
        browser.until("() => document.getElementById('export-json')?.checkVisibility()")
        assert browser.evaluate("() => document.getElementById('talk').hidden") is True
