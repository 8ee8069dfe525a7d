"""What goes out to clients without a task."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.http.direct import DirectWriter, TakenConnection


class Writes:
    """What was written without a task since this was made: frames, as one text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces: list[bytes] = []
        for kind in (DirectWriter, TakenConnection):
            self._listen(monkeypatch, kind)

    def _listen(self, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
        make = kind.__init__

        def made(writer: Any, *given: Any, **named: Any) -> None:
            make(writer, *given, **named)
            write = writer.write_chunk

            def noted(chunk: bytes) -> None:
                self.pieces.append(chunk)
                write(chunk)

            writer.write_chunk = noted

        monkeypatch.setattr(kind, "__init__", made)

    def has(self, word: str) -> bool:
        return any(b'"%b"' % word.encode() in piece for piece in self.pieces)
