"""The app as a whole: under a path, with a log-in elsewhere."""

from __future__ import annotations

import httpx2
import pytest

from gapless import Runner, create_app
from gapless.errors import UsageError


async def words() -> str:
    return "one two"


@pytest.mark.parametrize("passed_on", ["/agents", ""], ids=["passed on", "cut off"])
async def test_a_server_under_a_path(passed_on: str):
    """Whether its proxy cuts the path off or not."""
    async with Runner(words) as runner:
        transport = httpx2.ASGITransport(create_app(runner, path_prefix="/agents"))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            page = await client.get(f"{passed_on}/")
            assert page.status_code == 200
            assert "<title>" in page.text
            assert (await client.get(f"{passed_on}/static/chat.js")).status_code == 200
            begun = await client.post(
                f"{passed_on}/runs", json={"message": "hi"}, headers={"accept": "text/event-stream"}
            )
            run_id = begun.headers["x-run-id"]
            assert begun.headers["content-location"].startswith(f"/agents/runs/{run_id}/events")
            assert "RUN_FINISHED" in begun.text
            assert (await client.get(f"{passed_on}/runs/{run_id}")).json()["status"] == "finished"
            assert (await client.get(f"{passed_on}/nothing")).status_code == 404
            assert (await client.get("/agentsandmore")).status_code == 404


async def test_the_page_of_a_server_under_a_path_is_in_a_folder():
    """Its modules have relative addresses."""
    async with Runner(words) as runner:
        transport = httpx2.ASGITransport(create_app(runner, path_prefix="/agents"))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            moved = await client.get("/agents")
            assert moved.is_redirect
            assert httpx2.URL(moved.headers["location"]).path == "/agents/"


@pytest.mark.parametrize("prefix", ["agents", "/agents/", "/"])
def test_a_path_prefix_is_written_in_one_way(prefix: str):
    with pytest.raises(UsageError, match="write it as /agents"):
        create_app(Runner(), path_prefix=prefix)


async def test_the_page_knows_where_people_log_in_and_out():
    addresses = {"login_url": 'https://sso.example.com/?a="<b>&back={next}', "logout_url": "/logout"}
    async with Runner(words) as runner:
        transport = httpx2.ASGITransport(create_app(runner, **addresses))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            page = await client.get("/")
            assert page.headers["content-type"].startswith("text/html")
            assert "script-src 'self'" in page.headers["content-security-policy"]
            login = "https://sso.example.com/?a=&quot;&lt;b&gt;&amp;back={next}"
            assert f'<html data-login="{login}" data-logout="/logout" lang="en"' in page.text
            assert (await client.head("/")).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "//elsewhere.example",
        "/\t/elsewhere.example",
        "/\n/elsewhere.example",
        "/\r\\\\elsewhere.example",
        "/\\elsewhere.example",
        "login",
    ],
)
def test_an_address_to_log_in_at_is_a_path_or_a_url(address: str):
    with pytest.raises(UsageError, match="write a path, as /login"):
        create_app(Runner(), login_url=address)
