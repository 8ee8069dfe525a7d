"""What a request may say of a model's settings (`RunConfig.model_settings`), and how much of it.

Settings choose the model, its instruction, its tools, the headers of its requests: that is the operator's. A client
sets how an answer is generated, by a list of names; the operator's own list is `Runner(client_settings=…)`. What the
operator writes into `RunConfig` in Python goes to the agent untouched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import UnionType
from typing import Any

import msgspec

from gapless.errors import InputInvalid
from gapless.given import check_given

__all__ = ["CLIENT_SETTINGS", "SETTINGS_BYTES_MAX", "SETTINGS_DEPTH_MAX", "check_settings", "joined", "walk"]

CLIENT_SETTINGS = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens",
        "min_p",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "stop_sequences",
        "temperature",
        "thinking",
        "tool_choice",
        "top_k",
        "top_p",
        "verbosity",
    }
)
"""What a client may set where the operator says nothing else: how an answer is generated and formed."""
SETTINGS_BYTES_MAX = 128 * 1024
"""JSON of all the settings of one request; a large `response_format` is a tenth of it."""
SETTINGS_DEPTH_MAX = 40
"""Arrays and objects within each other: a JSON Schema needs two or three for each level of what it describes."""
_NUMBER: tuple[type | UnionType, str] = (int | float, "a number")
_COUNT: tuple[type | UnionType, str] = (int, "a whole number")
_NAME: tuple[type | UnionType, str] = (str, "a name")
_TEXTS: tuple[type | UnionType, str] = (str | list, "text, or a list of texts")
_KINDS: dict[str, tuple[type | UnionType, str]] = {
    "frequency_penalty": _NUMBER,
    "logit_bias": (dict, "an object of numbers"),
    "max_completion_tokens": _COUNT,
    "max_output_tokens": _COUNT,
    "max_tokens": _COUNT,
    "min_p": _NUMBER,
    "parallel_tool_calls": (bool, "true or false"),
    "presence_penalty": _NUMBER,
    "reasoning_effort": _NAME,
    "response_format": (dict, "an object"),
    "seed": _COUNT,
    "stop": _TEXTS,
    "stop_sequences": _TEXTS,
    "temperature": _NUMBER,
    "thinking": (bool | str | dict, "true, false, a name or an object"),
    "tool_choice": (str | dict | list, "a name, an object or a list"),
    "top_k": _COUNT,
    "top_p": _NUMBER,
    "verbosity": _NAME,
}
"""What each of these is, null apart, in Python and in words: of another kind it would be an error somewhere within a
framework."""
TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""One bound under the names of three APIs."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""How much a model may think, which is paid like what it says, from least to most."""
THINKING = ("reasoning_effort", "thinking")
"""One bound under two names; `thinking` may also be false ("none") or true ("medium")."""
NUMBER_MAX = 2**53
"""Numbers are between minus and plus this, where JSON's readers agree on whole ones (RFC 8259, section 6)."""


def check_settings(settings: Mapping[str, Any], allowed: Collection[str] = CLIENT_SETTINGS) -> None:
    """Refuse what a client may not set, and values that are no use: too deep, too large, numbers without bound.

    Raises `InputInvalid`, which names the setting and what may be set.
    """
    for name, value in settings.items():
        if name not in allowed:
            may = f"a client may set {', '.join(sorted(allowed))}" if allowed else "a client may set none here"
            raise InputInvalid(f"config.model_settings: {name[:100]!r} is the operator's to set; {may}")
        for one, depth in walk(value, 1):
            if depth > SETTINGS_DEPTH_MAX:
                raise InputInvalid(
                    f"config.model_settings: {name!r} has more than {SETTINGS_DEPTH_MAX} arrays and objects within "
                    "each other"
                )
            if isinstance(one, int | float) and not abs(one) <= NUMBER_MAX:  # nor is what is no number
                raise InputInvalid(f"config.model_settings: {name!r} has a number that is not between ±2^53")
        if name in _KINDS and value is not None:
            _check_kind(name, value)
    size_bytes = len(msgspec.json.encode(settings))
    if size_bytes > SETTINGS_BYTES_MAX:
        raise InputInvalid(
            f"config.model_settings: {size_bytes} bytes as JSON; at most {SETTINGS_BYTES_MAX} may be set in a request"
        )


def _check_kind(name: str, value: Any) -> None:
    kind, wanted = _KINDS[name]
    of = f"config.model_settings: {name}"
    check_given(of, value, kind, wanted, InputInvalid)
    if name == "logit_bias":
        for one in value.values():
            check_given(of, one, int | float, wanted, InputInvalid)
    for one in value if isinstance(value, list) else ():
        check_given(of, one, str, wanted, InputInvalid)


def joined(own: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the operator's settings with those that a client asks for in their place. How much may be said and thought
    a client may only lower where the operator has said it, under whatever name.

    Raises `InputInvalid`."""
    settings = {**own, **asked}
    own_tokens = {name: own[name] for name in TOKENS if own.get(name) is not None}
    if own_tokens:
        most = min(own_tokens.values())
        for name in asked.keys() & TOKENS:
            if type(asked[name]) is not int or not 0 < asked[name] <= most:
                raise InputInvalid(f"config.model_settings: {name} is a whole number of at most {most} here")
            del settings[name]
        wanted = min((asked[name] for name in asked.keys() & TOKENS), default=None)
        settings |= {name: bound if wanted is None else min(bound, wanted) for name, bound in own_tokens.items()}
    own_efforts = [effort for name in THINKING if (effort := _effort(own.get(name))) is not None]
    if own_efforts:
        for name in asked.keys() & THINKING:
            effort = _effort(asked[name])
            if asked[name] != own.get(name) and (effort is None or effort > min(own_efforts)):
                raise InputInvalid(f"config.model_settings: {name} is at most {EFFORTS[min(own_efforts)]!r} here")
    return settings


def _effort(value: Any) -> int | None:
    """Its place among `EFFORTS`; None where it has none."""
    value = "none" if value is False else "medium" if value is True else value
    return EFFORTS.index(value) if value in EFFORTS else None


def walk(value: Any, depth: int) -> Iterator[tuple[Any, int]]:
    """Walk through a JSON value: it and all within it, each with its level."""
    waiting = [(value, depth)]
    while waiting:
        one, level = waiting.pop()
        yield one, level
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        waiting += [(each, level + 1) for each in inner]
