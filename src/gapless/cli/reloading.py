"""`gapless serve --reload`: what serves is replaced, as at SIGHUP, when the agents' code changes."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gapless.cli.agents import path_of

__all__ = ["LOOK_S", "Sources", "folders_of", "reload_on_changes"]

LOOK_S = 0.5
"""How often it is looked; what was saved in pieces, or file by file, is taken together."""
FILES_MAX = 10_000
"""Looking at so many takes some 20 ms."""
SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})

log = logging.getLogger("gapless.serve")


class Sources:
    """Knows the code below `folders`: their `.py` and `.env` files, the newest state of each. Hidden folders,
    environments and what npm installs are left out."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = [*folders]
        self._known = self._look()

    def changed(self) -> list[Path]:
        """Return the files that are new, other or gone since the last call."""
        before, self._known = self._known, self._look()
        return sorted({Path(path) for path, _ in before.items() ^ self._known.items()})

    def _look(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for entry in (entry for folder in self._folders for entry in _sources_below(folder)):
            try:
                state = entry.stat()
            except OSError:  # gone meanwhile
                continue
            found[entry.path] = state.st_mtime_ns, state.st_size
            if len(found) >= FILES_MAX:
                break
        return found


def _sources_below(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    try:
        entries = [*os.scandir(folder)]
    except OSError:
        return
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name[0] != "." and entry.name not in SKIPPED:
                yield from _sources_below(entry.path)
        elif entry.name.endswith(".py") or entry.name == ".env":
            yield entry


def folders_of(references: Sequence[str]) -> list[Path]:
    """Return where the code of agents is that are so referred to: the working directory, and the folders of those that
    are elsewhere."""
    here = Path.cwd()
    found = [here]
    for reference in references:
        path = path_of(reference)
        if path is not None and path.exists():
            folder = (path if path.is_dir() else path.parent).resolve()
            if not any(folder.is_relative_to(one) for one in found):
                found.append(folder)
    return found


def reload_on_changes(references: Sequence[str]) -> None:
    """From now on, in a thread, tell this process to replace what serves when the code of these agents changes."""
    sources = Sources(folders_of(references))

    def look() -> None:
        wait, told = threading.Event(), True
        while not wait.wait(LOOK_S):
            if changed := sources.changed():
                more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
                log.info("%s%s changed", os.path.relpath(changed[0]), more)
                told = False
            # Until the server has begun, nobody hears it, and the process would end.
            if not told and callable(signal.getsignal(signal.SIGHUP)):
                os.kill(os.getpid(), signal.SIGHUP)
                told = True

    threading.Thread(target=look, name="gapless-reload", daemon=True).start()
