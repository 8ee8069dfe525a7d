"""How a run came from worker to worker, in Redis: a field of its record, which only a run has that ever did."""

from __future__ import annotations

import msgspec

from gapless.moves import MOVES_MAX, Moves

__all__ = ["MOVED", "moves_from"]

MOVED = f"""
local function moves_of(run)
  local read, kept = pcall(cjson.decode, redis.call('HGET', run, 'moves') or '')
  if read and type(kept) == 'table' and type(kept.moves) == 'table' then
    return kept
  end
  return {{moves = {{}}, left_out = 0}}
end
local function left(run, what, from, to, at)
  local kept = moves_of(run)
  local seq = tonumber(redis.call('HGET', run, 'last')) or 0
  at = tonumber(at)
  kept.moves[#kept.moves + 1] = {{seq = seq, what = what, at = at, ended_at = to ~= '' and at or nil,
    from_worker = from, to_worker = to}}
  if #kept.moves > {MOVES_MAX} then
    table.remove(kept.moves, 1)
    kept.left_out = kept.left_out + 1
  end
  redis.call('HSET', run, 'moves', cjson.encode(kept))
end
local function arrived(run, worker, at)
  local kept = moves_of(run)
  local newest = kept.moves[#kept.moves]
  if newest and not newest.ended_at then
    newest.to_worker, newest.ended_at = worker, tonumber(at)
    redis.call('HSET', run, 'moves', cjson.encode(kept))
  end
end
"""
"""`left` keeps that a run has left its worker, `arrived` that one that was nobody's is another's."""

_decode = msgspec.json.Decoder(Moves).decode


def moves_from(kept: bytes | None) -> Moves:
    """Read the field. What is not Gapless's is none."""
    try:
        return Moves() if kept is None else _decode(kept)
    except msgspec.DecodeError:
        return Moves()
