"""How a run came from one worker to another."""

from __future__ import annotations

from gapless.moves import HANDED_OVER, MOVES_MAX, TAKEN_OVER, Move, Moves


def test_a_move_to_a_worker_is_done_and_one_to_nobody_is_open() -> None:
    done, open_ = Move.now(3, TAKEN_OVER, "a", "b"), Move.now(3, HANDED_OVER, "a")
    assert done.ended_at == done.at
    assert (open_.ended_at, open_.to_worker) == (None, "")


def test_of_more_than_so_many_the_oldest_are_left_out() -> None:
    moves = Moves()
    for seq in range(MOVES_MAX + 2):
        moves.add(Move.now(seq, TAKEN_OVER, "a", "b"))
    assert (moves.left_out, moves.moves[0].seq, len(moves.moves)) == (2, 2, MOVES_MAX)


def test_a_worker_that_claims_what_a_version_without_moves_has_left_changes_none() -> None:
    none, done = Moves(), Moves([Move.now(1, TAKEN_OVER, "a", "b")])
    before = list(done.moves)
    for moves in (none, done):
        moves.arrive("c", 5)
    assert (none.moves, done.moves) == ([], before)
