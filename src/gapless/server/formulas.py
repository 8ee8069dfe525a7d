"""`POST /formulas`: LaTeX as MathML, which browsers set by themselves; what the chat page asks for.

The page must not parse markup, so an element comes as `[name, attributes, children]` and a text as a string.
"""

from __future__ import annotations

import asyncio
import functools
import html
import re
from typing import Any
from xml.etree.ElementTree import Element

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.errors import InputTooLarge, LimitReached
from gapless.http.answers import json_response, read_body
from gapless.http.openapi import body_docs
from gapless.http.routes import DirectRoute
from gapless.protocols.starting import ClientRoutes

__all__ = ["FormulaRoutes", "mathml"]

TEX_CHARS_MAX = 2000
"""Of a formula: a page long, and some 50 ms of work."""
CHARS_MAX = 20_000
"""Of all formulas of one request."""
ASKING_MAX = 100
"""Requests that wait for their formulas at once. Each formula is made alone, in its turn: threads of Python beside each
other hold up the event loop, and those that all of a process share are for others, too."""
KEPT_MAX = 512
"""Formulas of which the MathML is kept: everybody who reads a conversation asks for the same ones."""
DEPTH_MAX = 100
_MACROS = re.compile(r"\\(?:re)?newcommand|\\g?def\b|\\DeclareMathOperator")
"""What is defined in terms of itself doubles with each use."""
_ROWS = re.compile(r"(\\(?:begin|end)\s*)\{(?:aligned|align\*?|gathered|gather\*?|multline\*?|eqnarray\*?)\}")
_NUMBERED = re.compile(r"\\(?:begin|end)\s*\{equation\*?\}|\\(?:label|tag)\{[^{}]*\}|\\nonumber\b")
"""What the library takes for text: rows that are aligned but not in a `split`, and what numbers equations."""
ELEMENTS = frozenset(
    {"math", "menclose", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mphantom", "mprescripts"}
    | {"mroot", "mrow", "ms", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr"}
    | {"munder", "munderover", "none"}
)
"""MathML Core's, and nothing that leads elsewhere."""
ATTRIBUTES = frozenset(
    {"accent", "accentunder", "columnalign", "columnlines", "columnspacing", "depth", "display", "displaystyle"}
    | {"fence", "form", "height", "largeop", "linethickness", "lspace", "mathcolor", "mathsize", "mathvariant"}
    | {"maxsize", "minsize", "movablelimits", "notation", "rowlines", "rowspacing", "rspace", "scriptlevel"}
    | {"separator", "stretchy", "symmetric", "voffset", "width"}
)


class Formula(msgspec.Struct, forbid_unknown_fields=True):
    """LaTeX, and whether it stands in a line of its own."""

    tex: str
    display: bool = False


class Formulas(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /formulas`."""

    formulas: list[Formula]


class FormulaRoutes(ClientRoutes):
    """`/formulas`."""

    _asking = 0

    def router(self) -> APIRouter:
        self._turn = asyncio.Lock()
        router = APIRouter(tags=["page"], route_class=DirectRoute)
        router.post("/formulas", openapi_extra=body_docs(Formulas))(self.set_formulas)
        return router

    async def set_formulas(self, request: Request) -> Response:
        """Return each formula, `{"tex", "display"}`, as MathML: an element is `[name, attributes, children]`; null for
        what is no LaTeX."""
        await self.access.user(request)
        body = await read_body(request, Formulas, self.runner.limits.body_bytes_max)
        chars = sum(len(formula.tex) + 1 for formula in body.formulas)
        if chars > CHARS_MAX:
            raise InputTooLarge(f"{chars} characters of formulas: send at most {CHARS_MAX} at once")
        if self._asking >= ASKING_MAX:
            raise LimitReached(f"{ASKING_MAX} requests for formulas wait here already", retry_after_s=1)
        self._asking += 1
        try:
            made = [await self._made(each) for each in body.formulas]
        finally:
            self._asking -= 1
        return json_response({"formulas": made})

    async def _made(self, formula: Formula) -> list[Any] | None:
        async with self._turn:
            return await asyncio.to_thread(mathml, formula.tex, display=formula.display)


@functools.lru_cache(KEPT_MAX)
def mathml(tex: str, *, display: bool = False) -> list[Any] | None:
    """Return LaTeX as MathML, None for what cannot be read. It is a model's text, so it may be anything."""
    if len(tex) > TEX_CHARS_MAX or _MACROS.search(tex):
        return None
    tex = _NUMBERED.sub("", _ROWS.sub(r"\1{split}", tex))
    from latex2mathml.converter import convert_to_element  # only a page that shows formulas needs it

    try:
        tree = _tree(convert_to_element(tex, display="block" if display else "inline"))
    except (Exception, RecursionError):  # the library raises what its parts raise: IndexError, StopIteration, its own
        return None
    return tree


def _tree(element: Element, depth: int = 0) -> list[Any]:
    """Return an element as it is sent. Raises `ValueError` for what is no MathML to set."""
    if depth > DEPTH_MAX or element.tag not in ELEMENTS:
        raise ValueError(element.tag)
    attributes = {name: value for name, value in element.attrib.items() if name in ATTRIBUTES}
    children: list[Any] = [html.unescape(element.text)] if element.text else []
    children += [_tree(child, depth + 1) for child in element]
    return [element.tag, attributes, children]
