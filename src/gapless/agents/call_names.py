"""What providers of models take as the id of a tool's call, and as its tool's name.

A conversation may have begun elsewhere: with another provider's model, with another framework, in a client that holds
it itself. A service that knows no such ids refuses the whole request for one of them, and every later one of that
conversation. So they are told in its own form; what it takes stays as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence

import msgspec

from gapless.events import AssistantMessage, Message, ToolMessage

__all__ = ["ANY", "CallNames", "call_names"]

ANY = ("anthropic", "openai")
"""For a model that nobody knows the provider of: an id that both of these take is taken by nearly all."""

_IDS = {
    "anthropic": re.compile(r"[a-zA-Z0-9_-]+"),
    "bedrock": re.compile(r"[a-zA-Z0-9_-]{1,64}"),
    "mistral": re.compile(r"[a-zA-Z0-9]{9}"),
    "openai": re.compile(r"[^|]{1,40}(\|.*)?", re.DOTALL),
}
"""By provider, as their API references have it: Anthropic's messages, `tool_use.id`; Amazon's Converse, `toolUseId`;
Mistral's refusals ("must be a-z, A-Z, 0-9, with a length of 9"); OpenAI's chat completions, `tool_calls[].id`, the
shorter of its two. Behind a "|" frameworks keep the id that the responses API has for the item."""
_TOOL = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""The name of a tool, for all of these."""
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_ALIASES = {"azure": "openai", "aws": "bedrock", "vertex_ai": "anthropic"}


class CallNames:
    """Names calls as the providers `rules` take them."""

    def __init__(self, rules: Collection[str]) -> None:
        self._rules = [_IDS[name] for name in rules]
        self._chars = 9 if "mistral" in rules else 40

    def __bool__(self) -> bool:
        return bool(self._rules)

    def id(self, id: str) -> str:
        """Return the call's id, or what stands for it: the same wherever the call is told of."""
        if all(rule.fullmatch(id) for rule in self._rules):
            return id
        digest = hashlib.blake2b(id.encode(errors="replace"), digest_size=12).hexdigest()
        return digest[: self._chars] if self._chars < len(digest) else f"call_{digest}"

    def tool(self, name: str) -> str:
        """Return the tool's name, or one that is like it. (That of a tool that the model has is the agent's own
        matter: the service refuses it as such.)"""
        return name if not self or _TOOL.fullmatch(name) else _NOT_IN_A_NAME.sub("_", name)[:64] or "tool"

    def messages(self, messages: Sequence[Message], known: Collection[str] = ()) -> list[Message]:
        """Return the messages with their calls so named, but for those of the `known` ids."""
        return [self._message(message, known) for message in messages] if self else list(messages)

    def _message(self, message: Message, known: Collection[str]) -> Message:
        if isinstance(message, ToolMessage) and message.tool_call_id not in known:
            return msgspec.structs.replace(message, tool_call_id=self.id(message.tool_call_id))
        if not isinstance(message, AssistantMessage) or not message.tool_calls:
            return message
        calls = [
            msgspec.structs.replace(
                call,
                id=call.id if call.id in known else self.id(call.id),
                function=msgspec.structs.replace(call.function, name=self.tool(call.function.name)),
            )
            for call in message.tool_calls
        ]
        return msgspec.structs.replace(message, tool_calls=calls)


def call_names(providers: Iterable[str]) -> CallNames:
    """Return how calls are named for a model that one of these `providers` serves; as they are for others."""
    found = {_ALIASES.get(name, name) for name in providers}
    return CallNames([name for name in _IDS if name in found])
