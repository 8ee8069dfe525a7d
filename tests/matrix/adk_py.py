"""ADK's own client, on ADK's routes.

Started by the matrix, as its scripts in JavaScript are.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
from google.adk.cli.api_server import RunAgentRequest
from google.adk.cli.conformance.adk_web_server_client import AdkWebServerClient
from google.genai import types

from gapless.client.durable import durable_transport
from tests.matrix.agent import CASES, WAITING
from tests.matrix.cases import MODEL, QUICK, RESULTS, Case, Told, run_all

USER = "anonymous"
"""A run on ADK's routes belongs to the user that they name; this one is who cancels it and reads it, too."""


class Asking:
    """What the client made of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.told: Told = {"text": "", "reasoning": "", "calls": [], "files": [], "questions": 0, "outcome": "finished"}
        self.partial = ""
        """The text, as it came in pieces."""
        self.asks: list[types.FunctionCall] = []
        self.cancelled = False
        self._calls: dict[str, Told] = {}

    async def run(self) -> Told:
        transport = durable_transport(httpx.AsyncHTTPTransport(verify=False), limits=QUICK)
        async with AdkWebServerClient(self.case.url) as client:
            client._client = httpx.AsyncClient(base_url=self.case.url, timeout=60, transport=transport)
            session = await client.create_session(app_name=MODEL, user_id=USER)
            said: list[types.Part] = [types.Part(text=self.case.message)]
            while said:
                request = RunAgentRequest(
                    app_name=MODEL,
                    user_id=USER,
                    session_id=session.id,
                    new_message=types.UserContent(said),
                    streaming=True,
                )
                await self._read(client, request)
                self.told["questions"] += len(self.asks)
                said = [_yes(one) for one in self.asks]
                self.asks = []
        if self.partial != self.told["text"]:
            self.told["text"] = f"{self.partial}, and as a whole {self.told['text']}"
        return self.told

    async def _read(self, client: AdkWebServerClient, request: RunAgentRequest) -> None:
        try:
            async for event in client.run_agent(request):
                for part in (event.content.parts if event.content else None) or ():
                    if not event.partial:
                        self._take(part)
                    elif not part.thought:
                        self.partial += part.text or ""
                if self.partial.endswith(WAITING) and not self.cancelled:
                    self.cancelled = True
                    await asyncio.to_thread(self.case.cancel)
                if event.error_code == "INVOCATION_ABORTED":
                    self.told["outcome"] = "cancelled"
        except RuntimeError as error:
            self.told |= {"outcome": "failed", "error": str(error)}

    def _take(self, part: types.Part) -> None:
        if part.text:
            self.told["reasoning" if part.thought else "text"] += part.text
        if part.function_call and part.function_call.name == "adk_request_confirmation":
            self.asks.append(part.function_call)
        elif part.function_call:
            call: Told = {"name": part.function_call.name, "arguments": part.function_call.args}
            self.told["calls"].append(call)
            self._calls[part.function_call.id or ""] = call
        if part.function_response:
            self._result(part.function_response)
        if part.inline_data and part.inline_data.data is not None:
            data = base64.b64encode(part.inline_data.data).decode()
            self.told["files"].append({"type": part.inline_data.mime_type, "url": f"data:;base64,{data}"})
        if part.file_data:
            self.told["files"].append({"type": part.file_data.mime_type, "url": part.file_data.file_uri})

    def _result(self, said: types.FunctionResponse) -> None:
        response: dict[str, Any] = said.response or {}
        failed = response.get("error")
        self._calls[said.id or ""] |= {"failed": failed} if failed else {"failed": None, "result": response}


def _yes(asked: types.FunctionCall) -> types.Part:
    response = types.FunctionResponse(id=asked.id, name=asked.name, response={"confirmed": True})
    return types.Part(function_response=response)


if __name__ == "__main__":
    cases = [case for case in CASES if case not in RESULTS]
    run_all(["adk-py"], lambda case: asyncio.run(Asking(case).run()), cases)
