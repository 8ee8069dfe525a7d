"""The house keeps its floors: a folder imports only what is below it, no two modules import each other, what faces
clients reads runs through `runs/` and touches no store, and nothing grows too large to read.
"""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"

FLOORS = [
    {"words"},  # the modules at the root: events, errors, records, sse, wire … and pure functions over them
    {"journals", "agents", "client"},  # none knows another
    {"runs"},
    {"http", "testing"},
    {"protocols"},
    {"server", "adk", "pydantic_ai"},  # the last two: the frameworks' own spelling
    {"gapless"},  # the door: the names that users import
    {"cli"},
    {"__main__"},
]
"""From the ground up. A folder imports itself and what stands in a row before its own."""

TABLES = {"gapless.wire": "gapless.protocols"}
"""Modules that name what is above them in a table of strings, imported when asked for: module → what it may name."""

FUNCTION_LINES_MAX = 70
CLASS_LINES_MAX = 400
FILE_LINES_MAX = 650
"""`journals/journal.py`, the hot path, may be longer: it is left whole so that it is read from top to bottom."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Every module as its parts."""
    return {module_name(path): ast.parse(path.read_text()) for path in sorted(SRC.rglob("*.py"))}


FILES = {module_name(path): path.relative_to(SRC / "gapless").as_posix() for path in sorted(SRC.rglob("*.py"))}


def folder_of(module: str) -> str:
    """The part of the house that a module belongs to."""
    _, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    return part if any(part in floor for floor in FLOORS) else "words" if part else "gapless"


def floor_of(module: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if folder_of(module) in floor)


def is_below(imported: str, importing: str) -> bool:
    return folder_of(imported) == folder_of(importing) or floor_of(imported) < floor_of(importing)


def imports(tree: ast.AST, modules: set[str] | None = None) -> Iterator[str]:
    """What a module imports of Gapless: at its top, in functions, for types only, and by name in a string."""
    known = FILES.keys() if modules is None else modules
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.partition(".")[0] == "gapless")
            case ast.ImportFrom(module=str(module), names=names, level=0) if module.partition(".")[0] == "gapless":
                for alias in names:
                    whole = f"{module}.{alias.name}"
                    yield whole if whole in known else module
            case ast.ImportFrom(level=level) if level:
                raise AssertionError(f"line {node.lineno}: write the whole name of what is imported")
            case ast.Constant(value=str(text)) if re.fullmatch(r"gapless(\.\w+)+:\w+", text):
                yield text.partition(":")[0]


def arrows() -> set[tuple[str, str]]:
    return {(name, imported) for name, tree in trees().items() for imported in imports(tree) if imported != name}


def circle(graph: set[tuple[str, str]]) -> list[str]:
    """Modules each of which imports the next, and the last the first; empty if there are none."""
    try:
        TopologicalSorter({one: {to for of, to in graph if of == one} for one, _ in graph}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def lines(node: ast.AST) -> int:
    assert isinstance(node, ast.stmt)
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def too_long(tree: ast.AST, inside: str = "") -> Iterator[str]:
    """The names of functions and classes over their bound, within classes and functions too."""
    for node in ast.iter_child_nodes(tree):
        name = inside
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{inside}.{node.name}".lstrip(".")
            if lines(node) > (CLASS_LINES_MAX if isinstance(node, ast.ClassDef) else FUNCTION_LINES_MAX):
                yield name
        yield from too_long(node, name)


def reaches_for_a_store(tree: ast.AST) -> int:
    """The lines that import from `gapless.journals`, or that ask an object for its store or its journals."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if module.startswith("gapless.journals"):
                found.add(node.lineno)
            case ast.Import(names=names) if any(alias.name.startswith("gapless.journals") for alias in names):
                found.add(node.lineno)
            case ast.Attribute(attr="store" | "_store" | "journals" | "_journals"):
                found.add(node.lineno)
    return len(found)


def test_every_folder_has_a_floor():
    folders = {name.split(".")[1] for name in FILES if name.count(".") > 1}
    assert folders <= set().union(*FLOORS), "say in FLOORS what stands below this folder"


def test_a_folder_imports_only_what_is_below_it():
    upwards = {
        (name, imported)
        for name, imported in arrows()
        if not is_below(imported, name) and not imported.startswith(TABLES.get(name, "-"))
    }
    assert upwards == set(), "these imports go upwards, or to a folder on the same floor"


def test_no_two_modules_import_each_other():
    graph = {arrow for arrow in arrows() if not arrow[1].startswith(TABLES.get(arrow[0], "-"))}
    assert circle(graph) == [], "these modules import each other"


def test_what_faces_clients_touches_no_store_and_no_journal():
    counts = {
        FILES[name]: count
        for name, tree in trees().items()
        if folder_of(name) in {"http", "protocols", "server"} and (count := reaches_for_a_store(tree))
    }
    assert counts == {}, "ask runs/ for this, not the store or the journals: file → lines"


def test_nothing_is_too_long_to_read():
    found = {f"{FILES[name]} {long}" for name, tree in trees().items() for long in too_long(tree)}
    for name in FILES:
        count = len((SRC / "gapless" / FILES[name]).read_text().splitlines())
        if count > FILE_LINES_MAX and FILES[name] != "journals/journal.py":
            found.add(FILES[name])
    assert found == set(), "these have grown too long"


def test_what_the_checks_above_can_find():
    code = """
from typing import TYPE_CHECKING
import gapless.sse, json
if TYPE_CHECKING:
    from gapless.runs import run
def f():
    from gapless.runs.run import Run
    return "gapless.wire:encoder_for", "gapless.wire"
"""
    known = {"gapless.runs.run"}
    assert Counter(imports(ast.parse(code), known)) == {"gapless.sse": 1, "gapless.runs.run": 2, "gapless.wire": 1}
    assert is_below("gapless.events", "gapless.wire")
    assert is_below("gapless.wire", "gapless.journals.sqlite")
    assert not is_below("gapless.journals", "gapless.agents.base")
    assert not is_below("gapless", "gapless.server.app")
    assert circle({("a", "b"), ("b", "c")}) == []
    assert set(circle({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")})) == {"a", "b", "c"}
    body = "        pass\n" * FUNCTION_LINES_MAX
    assert list(too_long(ast.parse(f"class A:\n    def f(self):\n{body}"))) == ["A.f"]
    touching = "from gapless.journals.merge import merge_deltas\nawait runner.store.read(runner.journals)\nstore = 1\n"
    assert reaches_for_a_store(ast.parse(touching)) == 2
