"""Gemini's live connection, scripted below ADK: what its server sends, message by message."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from google.adk.models.base_llm import BaseLlm
from google.adk.models.base_llm_connection import BaseLlmConnection
from google.adk.models.gemini_llm_connection import GeminiLlmConnection
from google.genai import types
from websockets.exceptions import ConnectionClosedOK
from websockets.frames import Close

from gapless.testing import Gate


class GeminiSession:
    """Google's live session: each thing said to it is answered by the next messages of the script."""

    session_id = "live"

    def __init__(self, script: list[list[Any]]) -> None:
        self._script = script
        self._out: asyncio.Queue[types.LiveServerMessage | None] = asyncio.Queue()

    async def send(self, **_: Any) -> None:
        for message in self._script.pop(0):
            if isinstance(message, Gate):
                await message.pass_through()
            else:
                self._out.put_nowait(message)

    send_tool_response = send
    send_client_content = send

    async def send_realtime_input(self, *, activity_end: Any = None, text: str | None = None, **_: Any) -> None:
        if activity_end is not None or text is not None:
            await self.send()

    async def receive(self) -> AsyncIterator[types.LiveServerMessage]:
        while (message := await self._out.get()) is not None:
            yield message
        raise ConnectionClosedOK(None, Close(1000, ""))

    async def close(self) -> None:
        while not self._out.empty():
            self._out.get_nowait()
        self._out.put_nowait(None)


class Gemini(BaseLlm):
    """ADK's own connection, to a session without a network."""

    script: list[list[Any]]
    version: str = "gemini-2.5-flash-native-audio"

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
        yield None

    @contextlib.asynccontextmanager
    async def connect(self, llm_request: Any) -> AsyncIterator[BaseLlmConnection]:
        session: Any = GeminiSession(self.script)
        yield GeminiLlmConnection(session, model_version=self.version)


def server(**content: Any) -> types.LiveServerMessage:
    return types.LiveServerMessage(server_content=types.LiveServerContent(**content))


def parts(*parts: types.Part) -> types.LiveServerMessage:
    return server(model_turn=types.Content(role="model", parts=list(parts)))


def heard(text: str) -> types.LiveServerMessage:
    return server(input_transcription=types.Transcription(text=text))


def spoken(text: str) -> list[types.LiveServerMessage]:
    blob = types.Blob(data=text.encode(), mime_type="audio/pcm;rate=24000")
    return [
        parts(types.Part(inline_data=blob)),
        server(output_transcription=types.Transcription(text=text)),
    ]
