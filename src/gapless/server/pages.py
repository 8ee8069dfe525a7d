"""The pages for people, the chat page and the API's description, and the files that they are made of."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from gapless.errors import UsageError

__all__ = ["PAGE", "check_address", "mount_static", "pages"]

PAGE = Path(__file__).parent / "page"
_FOLDERS: list[str | tuple[str, str]] = [("gapless.server", PAGE.name), ("gapless.server", "gapless-client")]
"""What `/static` serves: the page, and the npm package, which pages import from there, this one and others."""
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def check_address(name: str, address: str) -> None:
    """Refuse what a link of the page must not lead to. Raises `UsageError`."""
    own = address.startswith("/") and not address.startswith(("//", "/\\"))
    plain = (
        address.isprintable() and " " not in address
    )  # browsers leave out tabs and new lines: "/\t/host" is "//host"
    if address and not (plain and (own or address.startswith(("https://", "http://")))):
        raise UsageError(f"{name} {address!r}: write a path, as /login, or a URL, as https://login.example.com/")


def pages(told: dict[str, str]) -> APIRouter:
    """Return the routes of the pages. `told` is what the chat page has to know: where people log in and out, and the
    key by which browsers are told of runs."""
    router = APIRouter(include_in_schema=False)
    given = "".join(f' data-{name}="{html.escape(value)}"' for name, value in told.items() if value)
    text = (PAGE / "index.html").read_text(encoding="utf-8").replace("<html ", f"<html{given} ", 1)

    async def page() -> Response:
        if given:
            return HTMLResponse(text, headers=_PAGE_HEADERS)
        return FileResponse(PAGE / "index.html", headers=_PAGE_HEADERS)

    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html", headers=_PAGE_HEADERS)

    async def push_worker() -> Response:
        """A service worker rules the folder that it is in, and no page above: so this is where the chat page is."""
        return FileResponse(PAGE / "push-worker.js", headers=_PAGE_HEADERS)

    router.head("/")(page)
    router.get("/")(page)
    router.get("/docs")(docs)
    router.get("/push-worker.js")(push_worker)
    return router


def wants_page(request: Request) -> bool:
    """Tell whether a browser opens an address as a page: programs that list runs ask for JSON, or for anything."""
    accept = request.headers.get("accept", "")
    return "text/html" in accept and "application/json" not in accept


def runs_page() -> Response:
    """Return the page on what runs. At its address programs get JSON, so caches keep the two apart."""
    return FileResponse(PAGE / "runs.html", headers=_PAGE_HEADERS | {"vary": "accept"})


def mount_static(app: FastAPI) -> None:
    """Serve the pages' files under `/static`."""
    app.mount("/static", _Static(packages=_FOLDERS), name="static")


class _Static(StaticFiles):
    """The page's modules, revalidated at each load."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_PAGE_HEADERS)
        return response
