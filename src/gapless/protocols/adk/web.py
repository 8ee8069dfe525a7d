"""ADK's own web page, served from the `google-adk` package that is installed, on the routes of `gapless.server.adk`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from gapless.errors import ExtraMissing
from gapless.http.answers import json_response
from gapless.http.auth import Access

__all__ = ["page_directory", "serve_adk_web"]


def serve_adk_web(app: FastAPI, access: Access) -> None:
    """Serve the page at `/dev-ui/`. Raises `ExtraMissing`.

    It chats, and shows sessions, events and state. Its evaluations, traces and agent builder are of ADK's development
    server, and stay empty here. It is told that nobody agreed to send usage data.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/dev-ui")
    async def page(request: Request) -> Response:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/dev-ui/")

    @router.get("/dev-ui/assets/config/runtime-config.json")
    async def config(request: Request) -> Response:
        config = {"backendUrl": request.scope.get("root_path", ""), "telemetry": False}
        return json_response(config)

    @router.get("/config/telemetry")
    async def telemetry(request: Request) -> Response:
        await access.user(request)
        return json_response({"telemetry": False})

    @router.get("/dev/apps/{app_name}/eval_sets")
    @router.get("/dev/apps/{app_name}/eval_results")
    @router.get("/dev/apps/{app_name}/debug/trace/session/{session_id}")
    async def nothing() -> Response:
        return json_response([])

    app.include_router(router)
    app.mount("/dev-ui", StaticFiles(directory=page_directory(), html=True), name="dev-ui")


def page_directory() -> Path:
    """Return where `google-adk` keeps the page; found without importing it. Raises `ExtraMissing`."""
    try:
        spec = importlib.util.find_spec("google.adk")
    except ModuleNotFoundError:
        spec = None
    for place in (spec.submodule_search_locations if spec is not None else None) or ():
        directory = Path(place) / "cli" / "browser"
        if (directory / "index.html").is_file():
            return directory
    raise ExtraMissing("ADK's web page comes with the package google-adk: pip install 'gapless[adk]'")
