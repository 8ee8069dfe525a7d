"""Which service a URL names; Gapless as a service, and one real model behind the same HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gapless import RunConfig, Runner, StreamingMode, create_app
from gapless.agents import adapt, local
from gapless.agents.agui_endpoint import AGUIEndpoint
from gapless.agents.base import RunContext
from gapless.agents.endpoints import endpoint
from gapless.agents.local import embedded_model
from gapless.agents.openai_chat import OpenAIChat
from gapless.errors import (
    AgentInvalid,
)
from gapless.events import (
    ReasoningMessage,
    UserMessage,
)
from gapless.testing import serving
from tests.support.agui import check_order
from tests.support.endpoints import HELLO, ask
from tests.support.rich import ANSWER, MESSAGES, REASONING, rich
from tests.support.upstream import Reply, upstream


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GAPLESS_ENDPOINT_KEY", "GAPLESS_MODEL_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("reference", "kind", "posts_to"),
    [
        ("http://host/v1", OpenAIChat, "http://host/v1/chat/completions"),
        ("https://host:8443/api/v3/", OpenAIChat, "https://host:8443/api/v3/chat/completions"),
        ("http://host/x/chat/completions?api-version=2", OpenAIChat, "http://host/x/chat/completions?api-version=2"),
        ("openai+https://host/llm?model=m", OpenAIChat, "https://host/llm/chat/completions"),
        ("http://host/ag-ui", AGUIEndpoint, "http://host/ag-ui"),
        ("http://host/agents/agui/", AGUIEndpoint, "http://host/agents/agui/"),
        ("ag-ui+http://host/v1", AGUIEndpoint, "http://host/v1"),
    ],
)
def test_a_url_says_which_protocol_is_spoken(reference: str, kind: type, posts_to: str) -> None:
    agent = endpoint(reference)
    assert type(agent) is kind
    assert isinstance(agent, OpenAIChat | AGUIEndpoint)
    target = agent._completions if isinstance(agent, OpenAIChat) else agent._service.url
    assert str(target) == posts_to


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("http://host/", r"openai\+http://.*ag-ui\+http://"),
        ("http://host/chat", "which protocol"),
        ("openai+ftp://host/v1", "write http://"),
        ("http:///v1", "write http://"),
        ("http://user:secret@host/v1", "GAPLESS_ENDPOINT_KEY"),
        ("http://host:port/v1", "port"),
    ],
)
def test_a_url_that_says_too_little_is_refused_with_what_to_write(reference: str, says: str) -> None:
    with pytest.raises(AgentInvalid, match=says) as error:
        endpoint(reference)
    assert "secret" not in str(error.value)


def test_a_url_is_an_agent_wherever_agents_are_named() -> None:
    assert isinstance(adapt("http://127.0.0.1:1/v1?model=m"), OpenAIChat)


@pytest.mark.parametrize(
    ("protocol", "path", "text"),
    [("openai", "/v1?model=rich", ANSWER), ("ag-ui", "/ag-ui?agent=rich", MESSAGES)],
)
async def test_one_gapless_runs_anothers_agent(protocol: str, path: str, text: str) -> None:
    with serving(create_app(Runner(agents={"rich": rich}))) as url:
        fold, events = await ask(f"{protocol}+{url}{path}", "rich")
    assert fold.text == text
    reasoning = [one.content for one in fold.messages() if isinstance(one, ReasoningMessage)]
    assert "".join(reasoning) == "".join(REASONING)
    assert fold.finished is not None
    assert sum(one.total_tokens or 0 for one in fold.finished.usage or ()) == 33
    check_order(events)


async def test_a_real_model_answers_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    model = embedded_model()
    try:
        await model.load()
        server = local._servers[model.path]
        monkeypatch.setenv("GAPLESS_ENDPOINT_KEY", server.service.key or "")
        settings = {"temperature": 0, "max_tokens": 24}
        async with Runner(f"{server.service.url}/v1") as runner:
            run = await runner.start("Say hello.", session_id="s", config=RunConfig(model_settings=settings))
            answer = await run.collect()
            assert len(answer.chunks) > 1
            assert answer.usage[0].output_tokens
            whole = RunConfig(model_settings=settings, streaming_mode=StreamingMode.NONE)
            assert (await (await runner.start("Say hello.", config=whole)).collect()).text == answer.text
    finally:
        await model.aclose()


def test_a_context_outside_of_a_runner_is_enough() -> None:
    """Adapters depend on nothing but the seam."""

    async def interrupt(_: Any) -> Any:
        raise AssertionError

    async def run() -> list[Any]:
        async with upstream(Reply(HELLO)) as up:
            agent = endpoint(up.url + "/v1?model=m")
            message = UserMessage(id="u", content="Hi")
            ctx = RunContext(
                run_id="r",
                session_id="s",
                user_id="u",
                agent_name="a",
                content="Hi",
                messages=[message],
                config=RunConfig(),
                interrupt=interrupt,
            )
            return [item async for item in agent.run(ctx)]

    assert asyncio.run(run())[:2] == ["Hel", "lo"]
