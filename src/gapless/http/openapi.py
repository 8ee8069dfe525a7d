"""OpenAPI's descriptions of what the routes read by themselves: bodies, query parameters, headers."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import msgspec

from gapless.records import RunStatus
from gapless.wire import wires

__all__ = ["STARTING", "Parameter", "body_docs", "parameter_docs"]

STARTING = ("run_id", "X-Run-Id", "Idempotency-Key", "X-Notify")
"""The parameters by which a request names the run that it starts, and who is told of it."""


class Parameter(NamedTuple):
    """One query parameter or header. A client family declares those of its own."""

    name: str
    place: str
    """`query` or `header`."""
    description: str
    schema: dict[str, Any] = {}  # noqa: RUF012  # never changed


BEHIND = Parameter("after", "query", "The page behind: the `next` of the page before.")
_COMMON = (
    Parameter("Accept", "header", "`text/event-stream` or `application/json`."),
    Parameter("Idempotency-Key", "header", "The same request with the same key is the same run."),
    Parameter("Last-Event-ID", "header", "Go on after the frame with this id, as it came."),
    Parameter("X-Notify", "header", "Who is told of the run: an address, or a webhook as JSON."),
    Parameter("X-Run-Id", "header", "The id of the run to start; sent again, the request comes back to it."),
    Parameter("after", "query", "Go on after this event: an id as it came, or a position."),
    Parameter("agent", "query", "Which of several agents."),
    Parameter("limit", "query", "At most so many.", {"type": "integer", "minimum": 1}),
    Parameter("merge", "query", "`0`: deltas are not merged while catching up.", {"enum": ["0", "1"]}),
    Parameter("run_id", "query", "The id of the run to start; sent again, the request comes back to it."),
    Parameter("session_id", "query", "The conversation."),
    Parameter("since", "query", "Made at this time (ms since 1970) or later.", {"type": "integer", "minimum": 0}),
    Parameter("until", "query", "Made at this time (ms since 1970) or earlier.", {"type": "integer", "minimum": 0}),
    Parameter("error", "query", "In the code or the message of its error."),
    Parameter("user_id", "query", "Whose; for operators."),
    Parameter("status", "query", "Runs in this state.", {"enum": [status.value for status in RunStatus]}),
    Parameter(
        "wire",
        "query",
        "The encoding of the stream.",
        {"enum": sorted(wires(), key=lambda name: (name != "ag-ui", name))},
    ),
)
_BY_NAME = {parameter.name: parameter for parameter in _COMMON}


def body_docs(type: Any, *, required: bool = True) -> dict[str, Any]:
    """OpenAPI's description of a JSON body, for routes that read it themselves."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": _schema(type)}}}}


def parameter_docs(*parameters: str | Parameter) -> dict[str, Any]:
    """OpenAPI's description of what a route reads from its query and headers itself: parameters that many routes have
    by their names, others as they are."""
    documents = []
    for one in parameters:
        name, place, description, schema = _BY_NAME[one] if isinstance(one, str) else one
        document = {"name": name, "in": place, "description": description, "schema": {"type": "string", **schema}}
        documents.append(document)
    return {"parameters": documents}


@functools.cache  # it takes longer than all else that makes an app
def _schema(type: Any) -> Any:
    (schema,), components = msgspec.json.schema_components([type])
    return _whole(schema, components)


def _whole(schema: Any, components: dict[str, Any]) -> Any:
    """Return the schema with its parts in their places: what FastAPI does not know of cannot be referred to."""
    if isinstance(schema, list):
        return [_whole(item, components) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _whole(components[schema["$ref"].rpartition("/")[2]], components)
    return {key: _whole(value, components) for key, value in schema.items() if key != "discriminator"}
