"""Artifacts of ADK's sessions, as its own server shows them: what an ADK agent's artifact service keeps."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gapless.errors import InputInvalid, RunNotFound
from gapless.http.answers import json_response, read_body
from gapless.http.openapi import Parameter, body_docs, parameter_docs
from gapless.http.routes import DirectRoute
from gapless.protocols.adk.requests import SaveArtifactRequest, as_type, camel
from gapless.protocols.adk.sessions import ADKAPI

__all__ = ["ArtifactRoutes"]

_ALL = "/apps/{app}/users/{user}/sessions/{session_id}/artifacts"
_ONE = _ALL + "/{name:path}"


class ArtifactRoutes(ADKAPI):
    """`/apps/{app}/users/{user}/sessions/{session}/artifacts…`."""

    def router(self) -> APIRouter:
        router = APIRouter(route_class=DirectRoute)
        self.add_to(router)
        return router

    def add_to(self, router: APIRouter) -> None:
        """Add the routes to ADK's router."""
        router.get(_ALL)(self.list_artifacts)
        router.post(_ALL, openapi_extra=body_docs(SaveArtifactRequest))(self.save_artifact)
        router.get(_ONE + "/versions/metadata")(self.list_version_metadata)
        router.get(_ONE + "/versions/{version}/metadata")(self.get_version_metadata)
        router.get(_ONE + "/versions/{version}")(self.load_version)
        router.get(_ONE + "/versions")(self.list_versions)
        # Names may have slashes, so this one comes last.
        version = Parameter("version", "query", "By default the newest.", {"type": "integer"})
        router.get(_ONE, openapi_extra=parameter_docs(version))(self.load_artifact)
        router.delete(_ONE)(self.delete_artifact)

    async def list_artifacts(self, app: str, user: str, session_id: str, request: Request) -> Response:
        """List the names of a session's artifacts."""
        kept, of = await self._kept(request, "read", app, user, session_id)
        return json_response([] if kept is None else await kept.names(*of))

    async def save_artifact(self, app: str, user: str, session_id: str, request: Request) -> Response:
        """Save a part as the newest version of an artifact."""
        kept, of = await self._kept(request, "update", app, user, session_id)
        given = await read_body(request, dict[str, Any], self.runner.limits.body_bytes_max)
        body = as_type(SaveArtifactRequest, camel(given))
        if kept is None:
            raise InputInvalid(f"agent {app} keeps no artifacts")
        return _found(await kept.save(*of, body.filename, body.artifact, body.custom_metadata))

    async def list_version_metadata(
        self, app: str, user: str, session_id: str, name: str, request: Request
    ) -> Response:
        """Show what is known of each version of an artifact."""
        kept, of = await self._kept(request, "read", app, user, session_id)
        return json_response([] if kept is None else await kept.all_versions(*of, name))

    async def get_version_metadata(
        self, app: str, user: str, session_id: str, name: str, version: str, request: Request
    ) -> Response:
        """Show what is known of one version of an artifact; `latest` is the newest."""
        kept, of = await self._kept(request, "read", app, user, session_id)
        return _found(None if kept is None else await kept.version(*of, name, _number(version)))

    async def load_version(
        self, app: str, user: str, session_id: str, name: str, version: str, request: Request
    ) -> Response:
        """Load one version of an artifact; `latest` is the newest."""
        kept, of = await self._kept(request, "read", app, user, session_id)
        return _found(None if kept is None else await kept.load(*of, name, _number(version)))

    async def list_versions(self, app: str, user: str, session_id: str, name: str, request: Request) -> Response:
        """List the versions of an artifact."""
        kept, of = await self._kept(request, "read", app, user, session_id)
        return json_response([] if kept is None else await kept.versions(*of, name))

    async def load_artifact(self, app: str, user: str, session_id: str, name: str, request: Request) -> Response:
        """Load an artifact."""
        kept, of = await self._kept(request, "read", app, user, session_id)
        version = _number(request.query_params.get("version", "latest"))
        return _found(None if kept is None else await kept.load(*of, name, version))

    async def delete_artifact(self, app: str, user: str, session_id: str, name: str, request: Request) -> Response:
        """Drop an artifact with all its versions."""
        kept, of = await self._kept(request, "update", app, user, session_id)
        if kept is not None:
            await kept.delete(*of, name)
        return json_response(None)

    async def _kept(
        self, request: Request, action: str, app: str, user: str, session_id: str
    ) -> tuple[Any, tuple[str, str]]:
        """Return what the app's agent keeps, None for nothing, and whose. Raises `SessionNotFound`."""
        await self.claimed(request, user)
        session = await self.get(self.known_app(app), user, session_id)
        await self.access.check(request, action, session, user=user)
        return self.runner.agents[app].artifacts(app), (user, session.id)


def _number(version: str) -> int | None:
    if version == "latest":
        return None
    try:
        return int(version)
    except ValueError:
        raise InputInvalid(f"version {version[:40]!r}: a number, or latest") from None


def _found(value: Any) -> Response:
    if value is None:
        raise RunNotFound("there is no such artifact, or not in this version")
    return json_response(value)
