"""OpenAI's clients: chat completions and responses."""

from __future__ import annotations

__all__ = ["ROUTES", "WIRES"]

WIRES = {
    "openai-completions": "gapless.protocols.openai.completions_wire:CompletionEncoder",
    "openai": "gapless.protocols.openai.chat_wire:ChatEncoder",
    "openai-responses": "gapless.protocols.openai.responses_wire:ResponsesEncoder",
}
ROUTES = "gapless.protocols.openai.routes:OpenAIRoutes"
