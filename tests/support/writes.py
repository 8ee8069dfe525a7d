"""What goes out to clients without a task."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.http.direct import DirectWriter, TakenConnection


class _Noted:
    """A transport whose pieces are noted as they are written."""

    def __init__(self, transport: Any, pieces: list[bytes]) -> None:
        self._transport, self._pieces = transport, pieces

    def write(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._transport.write(piece)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


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
            writer.transport = _Noted(writer.transport, self.pieces)

        monkeypatch.setattr(kind, "__init__", made)

    def has(self, word: str) -> bool:
        return any(b'"%b"' % word.encode() in piece for piece in self.pieces)
