"""The wire `openai-completions`: OpenAI's older API of prompts and texts, for programs that still ask it by default.

Source of the format: OpenAI API reference, completions (legacy). It is what a chat completion says, as text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from gapless.protocols.openai.chat_wire import ChatEncoder, encode
from gapless.sse import DONE

__all__ = ["CompletionEncoder"]


class CompletionEncoder(ChatEncoder):
    """Text completion chunks: the text, its end, errors. Calls and thoughts have no place in them."""

    name: ClassVar[str] = "openai-completions"

    def frames(self, event: bytes) -> Sequence[bytes]:
        return [frame for one in super().frames(event) if (frame := self._as_text(one))]

    def _as_text(self, frame: bytes) -> bytes:
        if frame is DONE or frame == b"[DONE]":
            return DONE
        chunk: dict[str, Any] = msgspec.json.decode(frame)
        if "choices" not in chunk:  # an error
            return frame
        chunk["id"], chunk["object"] = f"cmpl-{self.run.id}", "text_completion"
        texts = []
        for choice in chunk["choices"]:
            text, reason = choice["delta"].get("content") or "", choice["finish_reason"]
            if text or reason is not None:
                reason = "stop" if reason == "tool_calls" else reason
                texts.append({"index": 0, "text": text, "logprobs": None, "finish_reason": reason})
        if chunk["choices"] and not texts and "gapless" not in chunk:
            return b""
        chunk["choices"] = texts
        return encode(chunk)
