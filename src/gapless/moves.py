"""How a run came from one worker to another: what stores keep of it beside the journal, and timelines show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gapless.records import now_ms

__all__ = ["HANDED_OVER", "MOVES_MAX", "PARKED", "PASSED_ON", "TAKEN_OVER", "Move", "Moves"]

MOVES_MAX = 100
"""Moves that are kept of one run: the newest."""
TAKEN_OVER, HANDED_OVER, PASSED_ON, PARKED = "taken over", "handed over", "passed on", "parked"


class Move(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Says how a run left the worker `from_worker` at the time `at` and came to `to_worker` at `ended_at`, each in ms
    by the clock of the worker that did it. `seq` is the position of the newest event then.

    `what` is "taken over": its worker was lost; "handed over": its worker was being stopped; "passed on": its worker
    does not have the agent; or "parked": it waited for a person, and no worker had it meanwhile. Of the latter three
    `ended_at` is None until another worker, or the same, has it.
    """

    seq: int
    what: str
    at: int
    ended_at: int | None = None
    from_worker: str = ""
    to_worker: str = ""

    @classmethod
    def now(cls, seq: int, what: str, from_worker: str, to_worker: str = "") -> Move:
        """Make one of this moment: to that worker, or to nobody."""
        at = now_ms()
        ended_at = at if to_worker else None
        return cls(seq=seq, what=what, at=at, ended_at=ended_at, from_worker=from_worker, to_worker=to_worker)


class Moves(msgspec.Struct):
    """The moves of one run, oldest first. There were `left_out` more before them."""

    moves: list[Move] = []
    left_out: int = 0

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[Any]]) -> Moves:
        """Make them of a table's rows, oldest first: each the move's number, from 1 on, and its fields in their
        order."""
        fields = Move.__struct_fields__
        moves = [Move(**dict(zip(fields, row[1:], strict=True))) for row in rows]
        return cls(moves, rows[0][0] - 1 if rows else 0)

    def add(self, move: Move) -> None:
        """Add what came last, and leave out the oldest where there are more than `MOVES_MAX`."""
        self.moves.append(move)
        if len(self.moves) > MOVES_MAX:
            del self.moves[0]
            self.left_out += 1

    def arrive(self, worker_id: str, at: int) -> None:
        """Say that the run, which was nobody's, is this worker's from then on."""
        if self.moves and self.moves[-1].ended_at is None:  # it was left by a version that keeps no moves
            self.moves[-1].to_worker, self.moves[-1].ended_at = worker_id, at
