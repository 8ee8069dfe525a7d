"""ADK's own web page, served from the `google-adk` package that is installed, on the routes of `gapless.server.adk`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from gapless.errors import ExtraMissing
from gapless.http.answers import json_response
from gapless.http.auth import Access
from gapless.http.routes import DirectRoute
from gapless.http.stream import Streams
from gapless.protocols.adk.sessions import ADKAPI
from gapless.protocols.starting import root_path
from gapless.runs.runner import Runner

__all__ = ["PageRoutes", "page_directory", "serve_adk_web"]

_APP = "/dev/apps/{app}"
_STYLE = """\
app-side-panel [role="tab"][aria-posinset="4"], /* evaluations, after info, state and artifacts */
mat-button-toggle-group:has(mat-button-toggle[value="traces"]),
button[aria-label="Deploy this agent"] {
  display: none !important;
}
"""


def serve_adk_web(app: FastAPI, runner: Runner, streams: Streams, access: Access) -> None:
    """Serve the page at `/dev-ui/`, and what it asks for beside ADK's routes. Raises `ExtraMissing`.

    It chats, and shows sessions, events, state, artifacts and how an agent is made. What needs ADK's own server is
    hidden: evaluations, traces, deploying. It is told that nobody agreed to send usage data.
    """
    app.router.routes += PageRoutes(runner, streams, access).router().routes
    app.mount("/dev-ui", StaticFiles(directory=page_directory(), html=True), name="dev-ui")


class PageRoutes(ADKAPI):
    """`/dev-ui`, `/dev/apps/…` and `/apps/{app}/app-info`."""

    def router(self) -> APIRouter:
        router = APIRouter(include_in_schema=False, route_class=DirectRoute)
        router.get("/dev-ui")(self.page)
        router.get("/dev-ui/assets/config/runtime-config.json")(self.config)
        router.get("/dev-ui/prism-dark.css")(self.style)
        router.get("/dev-ui/prism-light.css")(self.style)
        router.get("/config/telemetry")(self.telemetry)
        router.get("/apps/{app}/app-info")(self.app_info)
        router.get(_APP + "/build_graph")(self.tree)
        router.get(_APP + "/build_graph_image")(self.drawings)
        router.get(_APP + "/builder")(self.builder)
        router.get(_APP + "/debug/trace/session/{session_id}")(self.traces)
        router.get(_APP + "/eval_sets")(self.evaluations)
        router.get(_APP + "/eval_results")(self.evaluations)
        return router

    async def page(self, request: Request) -> Response:
        return RedirectResponse(f"{root_path(request)}/dev-ui/")

    async def config(self, request: Request) -> Response:
        return json_response({"backendUrl": root_path(request), "telemetry": False})

    async def style(self, request: Request) -> Response:
        """Hide what would stay empty. The page names this file, for the colours of code, and the package lacks it."""
        return Response(_STYLE, media_type="text/css")

    async def telemetry(self, request: Request) -> Response:
        await self.access.user(request)
        return json_response({"telemetry": False})

    async def app_info(self, app: str, request: Request) -> Response:
        """Show what the app's agents are told and may call, in the form of ADK's server."""
        structure = await self._structure(app, request)
        info = {"rootAgentName": app, "description": ""} if structure is None else await structure.info()
        return json_response({"name": app, "language": "python", "isComputerUse": False, **info})

    async def tree(self, app: str, request: Request) -> Response:
        """Show the app's agents, tools and nodes."""
        structure = await self._structure(app, request)
        root = {"name": app, "type": "agent"} if structure is None else structure.tree()
        return json_response({"name": app, "root_agent": root})

    async def drawings(self, app: str, request: Request) -> Response:
        """Show the drawings of the app's agents: `?dark_mode=true` on a dark ground."""
        structure = await self._structure(app, request)
        dark = request.query_params.get("dark_mode") == "true"
        drawn = {} if structure is None else structure.drawings(dark=dark)
        return json_response({path: {"dotSrc": source} for path, source in drawn.items()})

    async def _structure(self, app: str, request: Request) -> Any:
        """Return what shows how the app's agent is made; None for nothing."""
        await self.access.user(request)
        return self.runner.agents[self.known_app(app)].structure(app)

    async def builder(self, app: str, request: Request) -> Response:
        """Answer as ADK's server does of an agent that is no YAML file: the page does not offer to edit it."""
        await self.access.user(request)
        return Response(media_type="text/plain")

    async def evaluations(self, app: str, request: Request) -> Response:
        await self.access.user(request)
        return json_response([])

    async def traces(self, app: str, session_id: str, request: Request) -> Response:
        """Show no spans: they are where the process's own OpenTelemetry sends them."""
        await self.access.user(request)
        return json_response([])


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
