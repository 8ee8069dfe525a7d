"""ADK's own web page, served from the `google-adk` package that is installed, on the routes of `gapless.server.adk`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from gapless.errors import ExtraMissing
from gapless.server.http import answer

__all__ = ["serve_adk_web"]


def serve_adk_web(app: FastAPI) -> None:
    """Serve the page at `/dev-ui/`. Raises `ExtraMissing`.

    What it shows beside chat and sessions (evaluations, traces, the agent builder) is of ADK's development server, and
    is not here.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/dev-ui")
    async def page(request: Request) -> Response:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/dev-ui/")

    @router.get("/dev-ui/assets/config/runtime-config.json")
    async def config(request: Request) -> Response:
        return answer({"backendUrl": request.scope.get("root_path", "")}, headers={"cache-control": "no-store"})

    app.include_router(router)
    app.mount("/dev-ui", StaticFiles(directory=_directory(), html=True), name="dev-ui")


def _directory() -> Path:
    """Where `google-adk` keeps the page; found without importing it."""
    try:
        spec = importlib.util.find_spec("google.adk")
    except ModuleNotFoundError:
        spec = None
    places = (
        [] if spec is None else [Path(place) / "cli" / "browser" for place in spec.submodule_search_locations or []]
    )
    for place in places:
        if (place / "index.html").is_file():
            return place
    raise ExtraMissing("ADK's web page comes with the package google-adk: pip install 'gapless[adk]'")
