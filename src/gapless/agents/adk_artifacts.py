"""What an ADK agent's artifact service keeps, as JSON."""

from __future__ import annotations

from typing import Any

import pydantic
from google.adk.artifacts import BaseArtifactService
from google.adk.errors.input_validation_error import InputValidationError
from google.genai import types

from gapless.errors import InputInvalid

__all__ = ["ADKArtifacts"]


class ADKArtifacts:
    """Shows the artifacts of an app's sessions; each method takes the user's and the session's id first."""

    def __init__(self, service: BaseArtifactService, app_name: str) -> None:
        self._service = service
        self._app_name = app_name

    def _of(self, user_id: str, session_id: str) -> dict[str, Any]:
        return {"app_name": self._app_name, "user_id": user_id, "session_id": session_id}

    async def names(self, user_id: str, session_id: str) -> list[str]:
        """List the names."""
        return await self._service.list_artifact_keys(**self._of(user_id, session_id))

    async def load(self, user_id: str, session_id: str, name: str, version: int | None) -> dict[str, Any] | None:
        """Return one version, by default the newest, as a part; None where there is none."""
        part = await self._service.load_artifact(**self._of(user_id, session_id), filename=name, version=version)
        return None if not part else part.model_dump(mode="json", by_alias=True, exclude_none=True)

    async def versions(self, user_id: str, session_id: str, name: str) -> list[int]:
        """List an artifact's versions."""
        return await self._service.list_versions(**self._of(user_id, session_id), filename=name)

    async def version(self, user_id: str, session_id: str, name: str, version: int | None) -> dict[str, Any] | None:
        """Return what is known of one version, by default the newest; None where there is none."""
        of = self._of(user_id, session_id)
        found = await self._service.get_artifact_version(**of, filename=name, version=version)
        return None if not found else found.model_dump(mode="json", by_alias=True, exclude_none=True)

    async def all_versions(self, user_id: str, session_id: str, name: str) -> list[dict[str, Any]]:
        """Return what is known of each version."""
        found = await self._service.list_artifact_versions(**self._of(user_id, session_id), filename=name)
        return [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in found]

    async def save(
        self, user_id: str, session_id: str, name: str, part: dict[str, Any], metadata: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        """Save a part as the newest version; returns what is known of that. Raises `InputInvalid`."""
        try:
            artifact = types.Part.model_validate(part)
            version = await self._service.save_artifact(
                **self._of(user_id, session_id), filename=name, artifact=artifact, custom_metadata=metadata
            )
        except (pydantic.ValidationError, InputValidationError) as error:
            raise InputInvalid(f"artifact {name[:100]!r}: {error}") from None
        return await self.version(user_id, session_id, name, version)

    async def delete(self, user_id: str, session_id: str, name: str) -> None:
        """Drop an artifact with all its versions."""
        await self._service.delete_artifact(**self._of(user_id, session_id), filename=name)
