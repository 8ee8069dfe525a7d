"""`POST /formulas`: LaTeX as MathML."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx2
import pytest

from gapless import Runner, create_app
from gapless.server import formulas
from gapless.server.formulas import CHARS_MAX, TEX_CHARS_MAX, mathml


def asgi(**options) -> httpx2.AsyncClient:
    app = create_app(Runner(lambda message: "Hi"), **options)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost")


async def test_formulas_come_as_trees_and_null_for_what_is_none() -> None:
    async with asgi() as http:
        asked = [{"tex": "a^2<b"}, {"tex": r"\frac{1}{2}", "display": True}, {"tex": r"\frac{"}]
        answer = await http.post("/formulas", json={"formulas": asked})
    power = ["msup", {}, [["mi", {}, ["a"]], ["mn", {}, ["2"]]]]
    half = ["mfrac", {}, [["mrow", {}, [["mn", {}, ["1"]]]], ["mrow", {}, [["mn", {}, ["2"]]]]]]
    assert answer.json()["formulas"] == [
        ["math", {"display": "inline"}, [["mrow", {}, [power, ["mo", {}, ["<"]], ["mi", {}, ["b"]]]]]],
        ["math", {"display": "block"}, [["mrow", {}, [half]]]],
        None,
    ]


async def test_only_users_ask_and_not_for_more_than_a_page_shows() -> None:
    async with asgi(authenticate=lambda request: None) as http:
        assert (await http.post("/formulas", json={"formulas": []})).status_code == 401
    async with asgi() as http:
        answer = await http.post("/formulas", json={"formulas": [{"tex": "x" * CHARS_MAX}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "input_too_large")


async def test_formulas_are_made_one_at_a_time_and_who_comes_when_too_many_wait_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once, most, begun, go_on = 0, 0, threading.Event(), threading.Event()

    def made(tex: str, *, display: bool) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        begun.set()
        assert go_on.wait(60)
        at_once -= 1

    monkeypatch.setattr(formulas, "mathml", made)
    monkeypatch.setattr(formulas, "ASKING_MAX", 3)
    asked = {"formulas": [{"tex": "x"}] * 5}
    async with asgi() as http:
        waiting = [asyncio.ensure_future(http.post("/formulas", json=asked)) for _ in range(3)]
        await asyncio.to_thread(begun.wait, 60)
        refused = await http.post("/formulas", json=asked)
        go_on.set()
        assert [answer.json() for answer in await asyncio.gather(*waiting)] == [{"formulas": [None] * 5}] * 3
        assert (await http.post("/formulas", json=asked)).status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert most == 1


@pytest.mark.parametrize("rows", ["aligned", "align*", "gathered", "split", "equation", "cases", "pmatrix"])
def test_rows_of_any_kind_are_set(rows: str) -> None:
    made = str(mathml(rf"\begin{{{rows}}} a &= b \\ c &= d \tag{{1}} \end{{{rows}}}"))
    assert "\\begin" not in made
    assert ("'mtr'" in made) == (rows != "equation")
    assert "'tag'" not in made


@pytest.mark.parametrize(
    "tex",
    [
        "x" * (TEX_CHARS_MAX + 1),
        "{" * TEX_CHARS_MAX,
        r"\sqrt{" * 300 + "x" + "}" * 300,
        r"\left(" * 300,
        "^" * 1000,
        r"\newcommand{\a}{\a\a}\a",
        r"\def\a{\a\a}\a",
    ],
)
def test_what_no_browser_should_set_is_left_as_it_was_written(tex: str) -> None:
    assert mathml(tex) is None


def test_nothing_leads_elsewhere() -> None:
    made = str(mathml(r"\href{javascript:alert(1)}{x} \class{a}{y} \style{color:red}{z} \text{<script>}"))
    assert "javascript" not in made
    assert "style" not in made
    assert "'class'" not in made


def test_the_longest_takes_no_second() -> None:
    began = time.process_time()
    for part in ("x_1 ", r"\frac1", "a^b", r"\alpha", "(", "&", "{x}", "'"):
        mathml(part * (TEX_CHARS_MAX // len(part)))
    assert time.process_time() - began < 30  # together; it is half a second
