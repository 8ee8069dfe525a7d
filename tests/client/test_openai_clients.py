"""Clients that are built on OpenAI's get a whole answer over the durable transport, through a network that cuts.

`python -m tests.matrix` tries these and many more, with every kind of answer and of cut.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import agents
import httpx2
import openai
import pytest
from langchain_openai import ChatOpenAI

from gapless import Runner, create_app
from gapless.client import ClientLimits
from gapless.client.durable import durable_transport
from gapless.testing import Cutter, serving
from tests.support.rich import ANSWER, RESPONSE, rich

CUTS = 10
QUICK = ClientLimits(retry_first_s=0.001, retry_max_s=0.005)
PATHS = [("chat", ANSWER), ("responses", RESPONSE)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(create_app(Runner(rich))) as base:
        yield base


@pytest.fixture
def network(url: str) -> Iterator[Cutter]:
    """Cuts so that most clients would take it for the end."""
    with Cutter(url, "clean", cuts=CUTS) as cutter:
        yield cutter
        assert list(cutter.cuts.values()) == [CUTS]


@pytest.mark.parametrize(("path", "whole"), PATHS)
async def test_langchain(network: Cutter, path: str, whole: str) -> None:
    http = httpx2.AsyncClient(transport=durable_transport(httpx2.AsyncHTTPTransport(verify=False), limits=QUICK))
    chat = ChatOpenAI(
        model="rich",
        base_url=f"{network.url}/v1",
        api_key="none",
        http_client=httpx2.Client(transport=httpx2.HTTPTransport(verify=False)),
        http_async_client=http,
        use_responses_api=path == "responses",
    )
    assert "".join([chunk.text async for chunk in chat.astream("rich 1")]) == whole


@pytest.mark.parametrize(("path", "whole"), PATHS)
async def test_agents_sdk(network: Cutter, path: str, whole: str) -> None:
    http = httpx2.AsyncClient(transport=durable_transport(httpx2.AsyncHTTPTransport(verify=False), limits=QUICK))
    client = openai.AsyncOpenAI(base_url=f"{network.url}/v1", api_key="none", http_client=http)
    kind = agents.OpenAIResponsesModel if path == "responses" else agents.OpenAIChatCompletionsModel
    asking = agents.Agent(name="asking", model=kind("rich", client))
    result = agents.Runner.run_streamed(asking, "rich 1", run_config=agents.RunConfig(tracing_disabled=True))
    assert "".join([delta async for delta in _deltas(result)]) == whole


async def _deltas(result: agents.RunResultStreaming) -> AsyncIterator[str]:
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            yield event.data.delta
