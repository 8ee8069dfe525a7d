"""A message, in whatever form it comes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gapless.errors import InputInvalid
from gapless.events import (
    AudioPart,
    DataSource,
    DocumentPart,
    FileSource,
    ImagePart,
    TextPart,
    UrlSource,
    UserMessage,
    VideoPart,
)
from gapless.user_message import media_part, simplest, user_message


def part(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"text": None, "inline_data": None, "file_data": None, **fields})


def test_text_and_messages():
    assert user_message("hi") == UserMessage(id="", content="hi")
    given = UserMessage(id="m", content="hi")
    assert user_message(given) == given
    assert user_message(given) is not given
    assert user_message("a\ud800\x00b").content == "a\ufffd\x00b"


def test_parts_as_objects_and_as_json():
    image = {"type": "image", "source": {"type": "url", "value": "https://example.org/a.png"}}
    expected = [TextPart(text="look"), ImagePart(source=UrlSource(value="https://example.org/a.png"))]
    assert user_message([{"type": "text", "text": "look"}, image]).content == expected
    assert user_message(expected).content == expected


def test_a_content_object():
    blob = SimpleNamespace(data=b"\x00\x01", mime_type="image/png")
    file = SimpleNamespace(file_uri="gs://bucket/file", mime_type=None)
    content = SimpleNamespace(parts=[part(text="look"), part(inline_data=blob), part(file_data=file)])
    assert user_message(content).content == [
        TextPart(text="look"),
        ImagePart(source=DataSource(value="AAE=", mime_type="image/png")),
        DocumentPart(source=UrlSource(value="gs://bucket/file")),
    ]
    assert user_message(SimpleNamespace(parts=[part(text="just "), part(text="text")])).content == "just text"


@pytest.mark.parametrize("nothing", ["", [], 5, None, {}, [{"type": "nonsense"}], SimpleNamespace(parts=[])])
def test_what_is_no_message(nothing: object):
    with pytest.raises(InputInvalid):
        user_message(nothing)


@pytest.mark.parametrize(
    ("mime_type", "kind"),
    [
        ("image/png", ImagePart),
        ("audio/wav", AudioPart),
        ("video/mp4", VideoPart),
        ("application/pdf", DocumentPart),
        (None, DocumentPart),
    ],
)
def test_media_by_its_type(mime_type: str | None, kind: type):
    assert isinstance(media_part(FileSource(value="f", mime_type=mime_type)), kind)


def test_the_simplest_form():
    assert simplest([TextPart(text="a"), TextPart(text="b")]) == "ab"
    mixed = [TextPart(text="a"), media_part(UrlSource(value="u", mime_type="image/png"))]
    assert simplest(mixed) == mixed
