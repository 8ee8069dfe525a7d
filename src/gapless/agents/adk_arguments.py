"""Arguments of a tool call that ADK streams in pieces, as JSON text that grows."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import msgspec
from google.genai import types

from gapless.agents.values import json_of
from gapless.jsontext import DEPTH_MAX, decode_json

__all__ = ["ArgumentsWriter"]


_PATH_STEP = re.compile(r"\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]|\.?([^.\[\]]+)")
_ESCAPE = re.compile(r"\\(.)")


class ArgumentsWriter:
    """Streamed tool arguments as JSON text.

    ADK gives them as pieces at JSONPaths (RFC 9535). Those that come in document order can be appended to a text as
    they come; at the first one that does not, the text stops growing until `finish`.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        """The tool's, as far as it has come: some services send it in pieces too."""
        self.started = False
        """The call was shown: its name is whole once arguments come."""
        self._text: list[str] = []
        self._path: list[str | int] = []
        self._in_string = False
        self._left: set[tuple[str | int, ...]] = set()
        """Members that are complete: one that came again could not be appended."""
        self._stuck = False
        self._said = 0

    def add(self, piece: types.PartialArg) -> str:
        """Return the JSON text that this piece adds."""
        if self._stuck or not piece.json_path:
            return ""
        path = _steps(piece.json_path)
        if piece.string_value is not None:
            fragment = json.dumps(piece.string_value, ensure_ascii=False)[1:-1]
            if self._in_string and path == self._path:
                return self._grow(fragment)
            return self._grow(self._move(path) + '"' + fragment, in_string=True)
        if piece.number_value is not None:
            value = json.dumps(piece.number_value)
        elif piece.bool_value is not None:
            value = json.dumps(piece.bool_value)
        elif piece.null_value is not None:
            value = "null"
        else:
            return ""
        return self._grow(self._move(path) + value)

    def unsaid(self) -> str:
        """Return what of the text was not returned here before."""
        pieces, self._said = self._text[self._said :], len(self._text)
        return "".join(pieces)

    def finish(self, args: dict[str, Any]) -> tuple[str, bool]:
        """Return what completes the text, given all the arguments; and whether it says the same as they do."""
        whole, text = json_of(args), "".join(self._text)
        if whole.startswith(text):
            return whole[len(text) :], True
        closing = self._closing(1)
        try:
            written = decode_json(text + closing + "}")
        except msgspec.DecodeError:  # nested beyond what is read
            return closing + "}", False
        missing = {key: value for key, value in args.items() if key not in written}
        members = "".join(f",{json_of(key)}:{json_of(value)}" for key, value in missing.items())
        return closing + members + "}", {**written, **missing} == msgspec.json.decode(whole)

    def _grow(self, text: str, in_string: bool | None = None) -> str:
        if self._stuck:
            return ""
        if in_string is not None:
            self._in_string = in_string
        self._text.append(text)
        return text

    def _closing(self, depth: int) -> str:
        """Closes what is open below `depth` members."""
        text = '"' if self._in_string else ""
        return text + "".join("]" if isinstance(step, int) else "}" for step in reversed(self._path[depth:]))

    def _move(self, path: list[str | int]) -> str:
        """Return the text between the last value and the one at `path`; stuck where nothing appended would do."""
        before, common = self._path, _common(self._path, path)
        if not self._can_follow(path, common):
            self._stuck = True
            return ""
        text = self._closing(common + 1) + "," if before else "{"
        self._in_string = False
        for depth, one in enumerate(path[common:], common):
            if depth > common:
                text += "[" if isinstance(one, int) else "{"
            if isinstance(one, str):
                text += json_of(one) + ":"
        self._path = path
        return text

    def _can_follow(self, path: list[str | int], common: int) -> bool:
        """Return whether the value at `path`, which shares its first `common` steps with the last one, can be
        appended.
        """
        if not path or len(path) > DEPTH_MAX or not isinstance(path[0], str):
            return False
        before = self._path
        if before and common in (len(before), len(path)):  # inside of the other, or the same
            return False
        if before and isinstance(path[common], int) and before[common] != cast(int, path[common]) - 1:
            return False
        if any(isinstance(one, int) and one != 0 for one in path[common + 1 :]):  # a new list begins with its first
            return False
        self._left.update(tuple(before[: depth + 1]) for depth in range(common, len(before)))
        return tuple(path[: common + 1]) not in self._left


def _common(one: list[str | int], other: list[str | int]) -> int:
    """Count the steps that two paths begin with alike."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    for index, single, double, plain in _PATH_STEP.findall(path.removeprefix("$")):
        steps.append(int(index) if index else plain or _ESCAPE.sub(r"\1", single or double))
    return steps
