"""The turns of the sessions that this worker has read last: the next run of one reads only what has come since."""

from __future__ import annotations

from gapless.journals.contract import Store
from gapless.records import Turn

__all__ = ["KEPT_BYTES_MAX", "KeptTurns"]

KEPT_BYTES_MAX = 32 * 1024 * 1024
"""Of turns that are kept; those of the session that was read longest ago go first."""
_TURN_BYTES = 512
"""What a turn takes beside what it holds."""


class KeptTurns:
    """Reads the turns of a store's sessions. The store only ever adds a turn at the end, or drops a session with all of
    them: that the last one kept is still in its place says that the others are."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, tuple[list[Turn], int]] = {}
        """By session, the one read last at the end: its turns, and how many bytes they take."""
        self._bytes = 0

    async def of(self, session_id: str) -> list[Turn]:
        """Return the session's turns, oldest first. Raises `StoreUnavailable`."""
        if session_id in self._kept:
            kept, size = self._kept[session_id]
            newer = await self._store.turns(session_id, len(kept) - 1)
            if newer and newer[0] == kept[-1]:
                turns = kept + newer[1:]
                self._keep(session_id, turns, size + sum(map(_size, newer[1:])))
                return turns
        turns = await self._store.turns(session_id)
        self._keep(session_id, turns, sum(map(_size, turns)))
        return turns

    def _keep(self, session_id: str, turns: list[Turn], size: int) -> None:
        self._drop(session_id)
        if turns:
            self._kept[session_id] = turns, size
            self._bytes += size
        while self._bytes > KEPT_BYTES_MAX:
            self._drop(next(iter(self._kept)))

    def _drop(self, session_id: str) -> None:
        _, size = self._kept.pop(session_id, ((), 0))
        self._bytes -= size


def _size(turn: Turn) -> int:
    return _TURN_BYTES + len(turn.messages) + len(turn.native or b"")
