"""Every public name of Gapless with its docstring: writes docs/reference.md, and finds what is not explained.

Run as a program it writes the page (`scripts/reference`); `tests/docs/test_reference.py` holds that the page is up to
date and has no gaps.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer

from gapless.cli import app
from gapless.cli.settings_file import DEFAULT_PATH, ENVIRONMENT

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference.md"

MODULES = {
    "gapless": "What most programs need",
    "gapless.errors": "Errors",
    "gapless.events": "Events, messages and their parts",
    "gapless.live": "Live runs",
    "gapless.producing": "Runs that are executed elsewhere",
    "gapless.sinks": "Sinks",
    "gapless.aggregator": "The response as a whole",
    "gapless.client": "Clients",
    "gapless.testing": "For tests",
    "gapless.testing.agents": "To test an adapter",
    "gapless.agents": "To load agents, and to add a framework",
    "gapless.agents.pydantic_ai": "Pydantic AI",
    "gapless.agents.adk": "Google ADK",
    "gapless.agents.langgraph": "LangGraph and LangChain",
    "gapless.agents.langgraph_middleware": "LangChain's agents",
    "gapless.agents.openai_agents": "OpenAI Agents SDK",
    "gapless.agents.agui_object": "Objects that speak AG-UI",
    "gapless.agents.base": "To write an adapter: the run",
    "gapless.agents.writing": "To write an adapter: what a model says",
    "gapless.agents.approving": "To write an adapter: questions about calls",
    "gapless.agents.turns": "To write an adapter: the turns before",
    "gapless.agents.failing": "To write an adapter: failures",
    "gapless.agents.local": "A model in a file",
    "gapless.journals": "To open stores",
    "gapless.journals.contract": "To add a store",
    "gapless.wire": "To add a wire",
}
"""The public modules, in the order of the page."""

EVENTS = ("gapless.events", "gapless.messages")

HEAD = """# Reference

Every public name, with what its docstring says. `scripts/reference` makes this page from the code; what is not on it is
Gapless' own and may change without notice.

Durations are in seconds and times in milliseconds since the Unix epoch unless a name says otherwise (`_s`, `_ms`).
"""


class Definition(NamedTuple):
    """One public function, method or class, as its source has it."""

    name: str
    """With its class and module."""
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    doc: str
    """Its docstring, or that of the method which it overrides."""
    inherited: str
    """Docstrings of base classes, whose fields it has too."""
    members: list[Definition]

    @property
    def is_property(self) -> bool:
        return any(ast.unparse(one).endswith("property") for one in self.node.decorator_list)


def definitions(module_name: str, seen: set[int]) -> Iterator[Definition]:
    """The public names of a module that were not in one before."""
    module = importlib.import_module(module_name)
    for name in module.__all__:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)) or id(value) in seen:
            continue
        if module_name == "gapless" and value.__module__ in EVENTS:
            continue  # with all the others, further down
        seen.add(id(value))
        yield _definition(f"{module_name}.{name}", value)


def aliases(module_name: str) -> Iterator[tuple[str, str]]:
    """The public names of a module that are no classes or functions, with the text under each."""
    module = importlib.import_module(module_name)
    wanted = {
        name
        for name in module.__all__
        if not (inspect.isclass(getattr(module, name)) or inspect.isfunction(getattr(module, name)))
    }
    body = ast.parse(inspect.getsource(module)).body
    for statement, after in zip(body, [*body[1:], None], strict=True):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if name in wanted:
                yield name, _text(after)


def _definition(name: str, value: type | object) -> Definition:
    node = _nodes(value.__module__)[inspect.unwrap(value).__qualname__]  # type: ignore[arg-type,attr-defined]  # as above
    members = []
    inherited = ""
    if inspect.isclass(value):
        parts = [base for base in value.__mro__ if base is value or not _is_public(base)]
        for member in dict.fromkeys(name for base in parts for name in vars(base)):
            raw = inspect.getattr_static(value, member)
            function = getattr(raw, "fget", None) or getattr(raw, "__func__", raw)
            is_ours = inspect.isfunction(function) and function.__module__.startswith("gapless")
            if is_ours and not member.startswith("_"):
                members.append(_definition(f"{name}.{member}", function)._replace(doc=_doc_of_member(value, member)))
        bases = [base for base in value.__mro__[1:] if base.__module__.startswith("gapless")]
        inherited = "\n".join(base.__doc__ or "" for base in bases)
        inherited += "\n".join(
            inspect.getdoc(vars(base)["__init__"]) or "" for base in (value, *bases) if "__init__" in vars(base)
        )
    return Definition(name, node, ast.get_docstring(node) or "", inherited, members)


@functools.cache
def _nodes(module_name: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """The classes and functions of a module by their qualified names; of several of one name, the last."""
    found = {}

    def look(parent: ast.AST, inside: str) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[inside + node.name] = node
                if isinstance(node, ast.ClassDef):
                    look(node, f"{inside}{node.name}.")
            else:
                look(node, inside)

    look(ast.parse(inspect.getsource(importlib.import_module(module_name))), "")
    return found


def _is_public(cls: type) -> bool:
    """True of a class with a section of its own, or of others: its members are not shown again where it is a base."""
    if not cls.__module__.startswith("gapless"):
        return True
    return any(getattr(importlib.import_module(name), cls.__name__, None) is cls for name in MODULES)


def _doc_of_member(cls: type, name: str) -> str:
    for base in cls.__mro__:
        raw = base.__dict__.get(name)
        function = getattr(raw, "fget", None) or getattr(raw, "__func__", raw)
        if function is not None and function.__doc__:
            return inspect.cleandoc(function.__doc__)
    return ""


def parameters(node: ast.AST) -> list[str]:
    """What a function takes, or the constructor of a class: the fields of a record."""
    if isinstance(node, ast.ClassDef):
        for one in node.body:
            if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                return parameters(one)
        return [name for name, _, _ in fields(node)]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    given = node.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return [one.arg for one in named if one.arg not in ("self", "cls")]


def fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """The fields that a class declares: name, type with default, and the text under it."""
    for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                default = f" = {ast.unparse(statement.value)}" if statement.value is not None else ""
                yield name, f"{ast.unparse(statement.annotation)}{default}", _text(after)
            case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_"):
                yield name, ast.unparse(statement.value), _text(after)


def _text(statement: ast.stmt | None) -> str:
    match statement:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return " ".join(text.split())
    return ""


def unexplained(one: Definition) -> list[str]:
    """The parameters of a definition that no text says anything of."""
    text = f"{one.doc}\n{one.inherited}"
    if re.match(r"(See|Do what|Does what) `", one.doc):  # it is explained there
        return []
    said = {name for name, _, words in fields(one.node) if words} if isinstance(one.node, ast.ClassDef) else set()
    return [
        name
        for name in parameters(one.node)
        if name not in said and not re.search(rf"`\**{name}\b|^ +{name}: ", text, re.M)
    ]


def first_sentence(doc: str) -> str:
    return re.split(r"(?<=[.:;!?])\s", " ".join(doc.split()), maxsplit=1)[0]


def page() -> str:
    """The text of docs/reference.md."""
    seen: set[int] = set()
    out = [HEAD]
    for module_name, title in MODULES.items():
        out.append(f"## {title}: `{module_name}`\n")
        for one in sorted(definitions(module_name, seen), key=lambda one: one.name.lower()):
            out += _section(one)
        out += [f"### `{name}`\n\n{text}\n" for name, text in sorted(aliases(module_name)) if text]
    out += settings()
    return "\n".join(out).rstrip() + "\n"


def settings() -> Iterator[str]:
    """Every setting of `gapless serve`, by each of its names."""
    yield "## Settings of `gapless serve`\n"
    yield (
        f"Typed, as a variable, or as a key of the file that `--settings-file` names (`{DEFAULT_PATH}` where there is\n"
        "one); what is typed counts first, the file last. What takes `NAME=VALUE` is a table there, of which each\n"
        "name counts for itself; of variables, several values are parted by spaces.\n"
    )
    yield "| option | variable | key | default | |\n|---|---|---|---|---|"
    command: Any = typer.main.get_command(app)
    for param in command.commands["serve"].params:
        option = param.opts[0] if param.opts[0].startswith("-") else "AGENT"
        variable = param.envvar or f"{ENVIRONMENT}_{param.name.upper()}"
        default = "" if param.default in (None, "", False) else f"`{param.default}`"
        key = "" if param.name == "settings_file" else f"`{param.name}`"
        yield f"| `{option}` | `{variable}` | {key} | {default} | {param.help.replace('|', chr(92) + '|')} |"
    yield ""


def _section(one: Definition) -> Iterator[str]:
    name = one.name.rpartition(".")[2]
    yield f"### `{name}`\n"
    if not isinstance(one.node, ast.ClassDef):
        yield f"```text\n{_signature(one.node)}\n```\n"
        yield _markdown(one.doc)
        return
    init = next((m for m in one.node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)
    if init is not None:
        yield f"```text\n{_signature(init, name)}\n```\n"
    yield _markdown(one.doc)
    listed = [(name, kind, text) for name, kind, text in fields(one.node) if init is None or text]
    if listed and any(one.arg == "kw_only" and ast.unparse(one.value) == "True" for one in one.node.keywords):
        yield "Its fields are given by name:\n"
    if listed:
        yield "".join(f"* `{name}: {kind}`{'. ' if text else ''}{text}\n" for name, kind, text in listed)
    for member in one.members:
        shown = f"`{member.name.rpartition('.')[2]}`" if member.is_property else f"`{_signature(member.node)}`"
        yield f"**{shown}**\n\n{_markdown(member.doc)}"


def _signature(node: ast.AST, name: str = "") -> str:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    arguments = re.sub(r"^(self|cls)(, |$)", "", ast.unparse(node.args))
    arguments = re.sub(r"(: [^,=]+)=", r"\1 = ", arguments)
    before = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    after = f" -> {ast.unparse(node.returns)}" if node.returns is not None and not name else ""
    return f"{before}{name or node.name}({arguments}){after}"


def _markdown(doc: str) -> str:
    lines = []
    inside = False
    for line in doc.splitlines():
        if line == "Args:":
            inside = True
            continue
        found = re.match(r" {4}(\**\w+): (.*)", line) if inside else None
        lines.append(f"* `{found[1]}`: {found[2]}" if found else line.replace("        ", "  ", 1) if inside else line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
