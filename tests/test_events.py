"""Our structs and the protocol's own models say the same."""

from __future__ import annotations

import json
import typing
from typing import Any

import ag_ui.core
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gapless import events

MODELS: dict[str, Any] = {
    model.model_fields["type"].default.value: model for model in typing.get_args(typing.get_args(ag_ui.core.Event)[0])
}
OURS: dict[str, Any] = {cls.__struct_config__.tag: cls for cls in typing.get_args(events.Event)}
THEIRS = TypeAdapter(ag_ui.core.Event)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
pointer = st.lists(st.text("abc/~09", max_size=3), max_size=3).map(
    lambda parts: "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
)
operation = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "replace", "test"]), "path": pointer, "value": json_value}
)


def strategy(annotation: Any, name: str) -> st.SearchStrategy[Any]:
    """Random values of a field of ours."""
    if annotation is Any:
        return json_value
    if name in ("delta", "patch") and typing.get_origin(annotation) is list:
        return st.lists(operation, max_size=2)
    if annotation is str:
        return text
    if annotation is int:  # a timestamp or a count of tokens
        return st.integers(0, 2**53 - 1)
    if annotation is bool:
        return st.booleans()
    if annotation is type(None) or annotation is msgspec.UnsetType:
        return st.nothing()
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(strategy(arguments[0], ""), min_size=arguments[0] is events.Interrupt, max_size=2)
    if origin is dict:
        return st.dictionaries(text, json_value, max_size=2)
    if arguments:
        return st.one_of([strategy(argument, name) for argument in arguments])
    return struct(annotation)


def struct(cls: Any) -> st.SearchStrategy[Any]:
    """Random instances of a struct of ours, each optional field there or not."""
    required, optional = {}, {}
    hints = typing.get_type_hints(cls)
    for field in msgspec.structs.fields(cls):
        values = strategy(hints[field.name], field.name)
        if field.required:
            required[field.name] = values
        else:  # an optional field that is there has a value
            optional[field.name] = values.filter(lambda value: value is not None)
    return st.deferred(
        lambda: st.builds(lambda given: cls(**given), st.fixed_dictionaries(required, optional=optional))
    )


BESIDE = {"TOOL_CALL_RESULT": {"error"}}
"""What our events say more: why a call failed, which AG-UI's tool message has and its event has not."""


def test_the_vocabulary_is_the_protocols():
    assert set(OURS) == {kind.value for kind in ag_ui.core.EventType}
    assert len(OURS) == 31


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_fields_are_the_protocols(kind: str):
    ours = {field.encode_name for field in msgspec.structs.fields(OURS[kind])}
    theirs = {field.alias or name for name, field in MODELS[kind].model_fields.items()} - {"type"}
    assert ours == theirs | BESIDE.get(kind, set())


@pytest.mark.parametrize("kind", sorted(MODELS))
@settings(max_examples=20)
@given(data=st.data())
def test_round_trip_with_the_protocols_models(kind: str, data: st.DataObject):
    event = data.draw(struct(OURS[kind]))
    ours = events.encode_event(event)
    model = THEIRS.validate_json(ours)
    assert type(model) is MODELS[kind]
    theirs = model.model_dump_json(by_alias=True).encode()
    assert json.loads(theirs) == json.loads(ours)
    assert json.loads(events.encode_event(events.decode_event(theirs))) == json.loads(ours)


def test_absent_fields_are_left_out_and_meant_nulls_stay():
    assert events.encode_event(events.CustomEvent(name="n", value=None)) == b'{"type":"CUSTOM","name":"n","value":null}'
    assert b"null" not in events.encode_event(events.TextMessageStartEvent(message_id="m"))


@pytest.mark.parametrize("cls", [events.TextMessageContentEvent, events.ReasoningMessageContentEvent])
def test_a_deltas_text_is_written_last(cls: Any):
    event = cls(
        message_id="m", delta="d", timestamp=1, raw_event={"delta": "x"}, metadata={"a": 1}, subagent_run_id="s"
    )
    assert events.encode_event(event).endswith(b',"delta":"d"}')


def test_unknown_events_are_refused():
    with pytest.raises(msgspec.ValidationError):
        events.decode_event(b'{"type":"NO_SUCH_EVENT"}')


def test_text_of_joins_the_text_parts():
    image = events.ImagePart(source=events.UrlSource(value="https://example.org/a.png"))
    assert events.text_of([events.TextPart(text="a"), image, events.TextPart(text="b")]) == "ab"
    assert events.text_of(None) == ""
