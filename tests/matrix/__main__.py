"""Every client, each case, behind each kind of cut: what it shows in the end beside what the journal holds.

    python -m tests.matrix                     all of them, some minutes
    python -m tests.matrix ai_sdk vue-ai7 own  a script's clients, or some of them, or some cases

Prints a table as docs/clients.md has it, and what was not exact. The first run installs the clients from npm.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from gapless import Runner, create_app
from gapless.client.sync import SyncClient
from gapless.testing import Cutter, serving
from tests.matrix.agent import CASES, agent, asked
from tests.matrix.journal import differences, held
from tests.support import node

HERE = Path(__file__).parent
KINDS = ("none", "abrupt", "mid-frame", "clean")
SCRIPTS = [
    HERE / name
    for name in (
        "ai_sdk.mjs",
        "svelte.mjs",
        "ag_ui.mjs",
        "copilotkit.mjs",
        "tanstack.mjs",
        "readers.mjs",
        "openai_js.mjs",
        "openai_py.py",
        "agents_py.py",
        "litellm_py.py",
        "readers_py.py",
        "adk_py.py",
        "adk_page.py",
    )
]
SVELTE = ("--conditions=svelte", "--conditions=browser", "--import", (HERE / "runes.mjs").as_uri())
"""What Svelte's packages need of a bundler."""
LOCAL = ("MODEL_COST_MAP", "ANTHROPIC_BETA_HEADERS", "BLOG_POSTS", "AUTOROUTER_PRESETS", "POLICY_TEMPLATES")
"""What litellm fetches unless it is told to take what is installed with it."""
QUIET = {
    "DO_NOT_TRACK": "1",
    "COPILOTKIT_TELEMETRY_DISABLED": "true",
    "LITELLM_MODE": "PRODUCTION",  # or it reads a file .env
    **{f"LITELLM_LOCAL_{what}": "True" for what in LOCAL},
}
CUTS = 10
SCRIPT_S_MAX = 600
IDLE_S_MAX = 600
"""A connection that is closed as a client uses it again is not what is tried here."""


def _app() -> FastAPI:
    app = create_app(Runner(agent), adk_web=True)

    @app.get("/asked")
    async def runs(message: str) -> list[str]:
        """The runs that a message has come to."""
        return asked.get(message, [])

    return app


@contextlib.contextmanager
def _network() -> Iterator[tuple[str, dict[str, Cutter]]]:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serving(_app(), timeout_keep_alive=IDLE_S_MAX))
        yield url, {kind: stack.enter_context(Cutter(url, kind, cuts=CUTS)) for kind in KINDS[1:]}


def _run(script: Path, url: str, cutters: dict[str, Cutter], only: dict[str, list[str]]) -> dict[str, Any]:
    """What a script's clients told, by `client.kind.case`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        urls = {"none": url} | {kind: cutter.url for kind, cutter in cutters.items()}
        given = {"urls": urls, "report": str(report), "cuts": CUTS, "only": only}
        command = [sys.executable, "-m", f"tests.matrix.{script.stem}"]
        if script.suffix == ".mjs":
            command = [node.NODE, *(SVELTE if script.stem == "svelte" else ()), str(script)]
        env = {**os.environ, **QUIET, "GAPLESS_TEST": json.dumps(given)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SCRIPT_S_MAX, check=False)
        if not report.exists():
            raise RuntimeError(f"{script.name}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
        told: dict[str, Any] = json.loads(report.read_text())["results"]
        return told


def _verdict(name: str, told: dict[str, Any], url: str, cutters: dict[str, Cutter]) -> str:
    """`exact`, or what is not."""
    _, kind, case = name.split(".")
    if told.get("none"):
        return str(told["none"])
    if "failed" in told:
        return f"failed: {told['failed'].strip().splitlines()[0]}"
    runs = asked[f"{case} {name}"]
    with SyncClient(url) as client:
        wrong = differences(url, told, held(client, url, runs))
    wrong += [f"said {told['error']}"] if wrong and told.get("error") else []
    if kind != "none" and (cuts := sum(cutters[kind].cuts[run] for run in set(runs))) < CUTS:
        wrong.append(f"cut {cuts} times")
    if len(set(runs)) > 1 and not case.startswith("own"):
        wrong.append(f"{len(set(runs))} runs")
    return "; ".join(wrong) or "exact"


def main() -> None:
    wanted = sys.argv[1:]
    chosen = [script for script in SCRIPTS if script.stem in wanted]
    rest = [name for name in wanted if name not in {script.stem for script in chosen}]
    only = {"clients": [name for name in rest if name not in CASES], "cases": [name for name in rest if name in CASES]}
    scripts = chosen or SCRIPTS
    if any(script.suffix == ".mjs" for script in scripts):
        node.install(HERE)
    with _network() as (url, cutters):
        for script in scripts:
            cells: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
            for name, told in _run(script, url, cutters, only).items():
                client, kind, case = name.split(".")
                cells[client][case][kind] = _verdict(name, told, url, cutters)
            _show(cells)


def _show(cells: dict[str, dict[str, dict[str, str]]]) -> None:
    """Print the table's rows, and what differs between kinds of cuts."""
    print("| client |", " | ".join(CASES), "|")
    print("|---" * (len(CASES) + 1) + "|", flush=True)
    for client, cases in cells.items():
        row = []
        for case in CASES:
            verdicts = set(cases[case].values())
            row.append("-" if not verdicts else verdicts.pop() if len(verdicts) == 1 else "see below")
        print(f"| {client} |", " | ".join(row), "|")
    for client, cases in cells.items():
        for case, kinds in cases.items():
            if len(set(kinds.values())) > 1:
                print(
                    f"{client}, {case}:", *(f"\n    {kind}: {verdict}" for kind, verdict in kinds.items()), flush=True
                )


if __name__ == "__main__":
    main()
