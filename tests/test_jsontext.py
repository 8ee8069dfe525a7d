"""JSON that others wrote."""

from __future__ import annotations

import msgspec
import pytest

from gapless.jsontext import DEPTH_MAX, decode_json


def nested(levels: int, inner: str = "1") -> str:
    return '[{"a":' * (levels // 2) + "[" * (levels % 2) + inner + "]" * (levels % 2) + "}]" * (levels // 2)


@pytest.mark.parametrize("levels", [0, 1, DEPTH_MAX - 1, DEPTH_MAX])
def test_what_is_nested_no_deeper_than_allowed_is_decoded(levels: int):
    assert decode_json(nested(levels)) == msgspec.json.decode(nested(levels))


@pytest.mark.parametrize("levels", [DEPTH_MAX + 1, 950, 5_000, 100_000])
@pytest.mark.parametrize("type", [object, dict[str, int]])
def test_what_is_deeper_is_not(levels: int, type: type):
    with pytest.raises(msgspec.DecodeError, match="within each other"):
        decode_json(nested(levels), type)


@pytest.mark.parametrize("text", ["[" * 5_000, '"' * 5_000, '["' + '\\"' * 5_000, "]" * 5_000, '"\\', "\ud800"])
def test_what_is_no_json_is_told_so_however_it_is_made(text: str):
    with pytest.raises(msgspec.DecodeError):
        decode_json(text)


def test_breadth_and_brackets_in_strings_are_no_depth():
    for text in ("[" + "[{}]," * 5_000 + "1]", '["' + "[{" * 5_000 + '", "\\"' + "[" * 5_000 + '\\\\"]'):
        assert decode_json(text) == msgspec.json.decode(text)


def test_a_body_that_is_no_utf8():
    with pytest.raises(msgspec.DecodeError):
        decode_json(b'"\xff"')
