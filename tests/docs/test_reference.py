"""The reference is made from the docstrings, and they leave nothing out."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support import reference
from tests.support.reference import Definition, definitions, first_sentence, parameters, unexplained

NO_VERBS = {
    *("a", "all", "also", "an", "and", "any", "at", "both", "each", "every", "for", "from", "how", "if", "in", "it"),
    *("its", "latest", "like", "newest", "no", "not", "of", "on", "one", "oldest", "only", "or", "so", "some", "the"),
    *("their", "there", "these", "this", "those", "to", "until", "what", "when", "where", "whether", "which", "with"),
}
"""Words that a docstring of a function or method does not begin with: it says what to do, or what it does."""
STATES = re.compile(
    r"\b(is|are|was|were|has|have|can|cannot|may|does|do|came|comes|raised|lost|passed|failed|ended|died|takes)\b"
)
"""A class may also begin with what it is about, if its sentence says something of it."""


def everything() -> list[Definition]:
    seen: set[int] = set()
    found = [one for module in reference.MODULES for one in definitions(module, seen)]
    return [part for one in found for part in (one, *one.members)]


ALL = {one.name: one for one in everything()}


def has_verb(one: Definition) -> bool:
    sentence = first_sentence(one.doc)
    first = sentence.partition(" ")[0].rstrip(",.:;").lower()
    names = isinstance(one.node, ast.ClassDef) or one.is_property
    return (first.isalpha() and first not in NO_VERBS) or (names and STATES.search(sentence) is not None)


@pytest.mark.parametrize("name", ALL)
def test_a_public_name_is_explained(name: str):
    one = ALL[name]
    assert one.doc, "it has no docstring"
    assert has_verb(one), f"its first sentence has no verb: {first_sentence(one.doc)!r}"
    assert not unexplained(one), f"its docstring says nothing of {unexplained(one)}"


def test_the_page_is_up_to_date():
    assert reference.PAGE.read_text() == reference.page(), "run scripts/reference"


def test_what_takes_its_fields_by_name_alone_says_so():
    section = reference.page().partition("### `Webhook`\n")[2].partition("\n### ")[0]
    assert "Its fields are given by name" in section
    section = reference.page().partition("### `Text`\n")[2].partition("\n### ")[0]
    assert "Its fields are given by name" not in section


def test_what_the_checks_above_can_find():
    def made(source: str) -> Definition:
        node = ast.parse(source).body[0]
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)
        return Definition("x", node, ast.get_docstring(node) or "", "", [])

    function = made(
        'def f(self, a, *, b=1, c=2, **d):\n    """Wait for `a`.\n\n    Args:\n        b: How long.\n    """'
    )
    assert parameters(function.node) == ["a", "b", "c", "d"]
    assert unexplained(function) == ["c", "d"]
    assert has_verb(function)
    assert not has_verb(made('def f():\n    """Until it has."""'))
    assert not has_verb(made('def f():\n    """The record that is asked for."""'))
    assert has_verb(made('class C:\n    """The run was cancelled."""'))
    assert not has_verb(made('class C:\n    """One run."""'))
    record = made('class C:\n    """Has `x`."""\n    x: int\n    y: str = ""\n    """Says who."""\n    z: int = 3')
    assert unexplained(record) == ["z"]
