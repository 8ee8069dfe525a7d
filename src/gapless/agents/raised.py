"""What a step raised, as it is kept: it is raised again where the function is run again."""

from __future__ import annotations

from typing import Any

import msgspec

from gapless.agents.files import module_named
from gapless.jsontext import without_surrogates

__all__ = ["decode_raised", "encode_raised"]


class _Raised(msgspec.Struct, array_like=True):
    """Is an exception. What it holds beside plain values is not kept: that would be pickling, and a store is not to say
    what a process runs."""

    kinds: list[tuple[str, str]]
    """The module and name of its class, and of those that this is derived from."""
    text: str
    args: list[Any]
    attributes: dict[str, Any]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Raised).decode


def encode_raised(error: Exception) -> bytes:
    """Encode what was raised: its class by name, its arguments and those of its attributes that are plain values."""
    kinds = [(kind.__module__, kind.__qualname__) for kind in type(error).__mro__ if issubclass(kind, Exception)]
    args = [one if _is_plain(one) else _text_of(one) for one in error.args]
    attributes = {name: value for name, value in vars(error).items() if _is_plain(value)}
    return _encode(_Raised(kinds, *without_surrogates([_text_of(error), args, attributes])))


def decode_raised(kept: bytes) -> Exception:
    """Make what was raised again. Where its class is not known here, or is not made so, it is of the next one that it
    is derived from, with its text."""
    raised = _decode(kept)
    for number, (module, name) in enumerate(raised.kinds):
        kind = _found(module, name)
        if kind is not None:
            try:
                return _made(kind, raised.args, raised.attributes) if number == 0 else _made(kind, [raised.text], {})
            except Exception:  # noqa: S112  # whatever a class of somebody's does where it is made
                continue
    return Exception(raised.text)


def _is_plain(value: object) -> bool:
    return value is None or type(value) in (str, int, float, bool)


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:  # somebody's `__str__`
        return f"<{type(value).__name__}>"


def _found(module: str, name: str) -> type[Exception] | None:
    """Return the class, where its module is imported: the function that catches it names it."""
    found: Any = module_named(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _made(kind: type[Exception], args: list[Any], attributes: dict[str, Any]) -> Exception:
    """Make one as it was, without its own `__init__`, which may take other arguments than it passes on: those are kept
    that Python's own class in it has."""
    error = kind.__new__(kind, *args)
    own = next(one for one in kind.__mro__ if one.__module__ == "builtins")
    own.__init__(error, *args)  # type: ignore[misc]  # what `super().__init__` of it called
    vars(error).update(attributes)
    return error
