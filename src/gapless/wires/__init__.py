"""Wires: encodings of a journal, one module per family of clients."""

from __future__ import annotations

import importlib

from gapless.errors import InputInvalid
from gapless.wires.base import Encoder

__all__ = ["WIRES", "wire"]

_WIRES = {
    "adk": "gapless.wires.adk:ADKEncoder",
    "ag-ui": "gapless.wires.agui:AGUIEncoder",
    "openai": "gapless.wires.openai:ChatEncoder",
    "openai-responses": "gapless.wires.openai_responses:ResponsesEncoder",
    "text": "gapless.wires.text:TextEncoder",
    "vercel": "gapless.wires.vercel:VercelEncoder",
}


WIRES = tuple(_WIRES)
"""Their names."""


def wire(name: str) -> type[Encoder]:
    """The encoder of a wire. Raises `InputInvalid` for a name that is none."""
    target = _WIRES.get(name)
    if target is None:
        raise InputInvalid(f"no wire {name!r}; there are: {', '.join(_WIRES)}")
    module, _, cls = target.partition(":")
    encoder: type[Encoder] = getattr(importlib.import_module(module), cls)
    return encoder
