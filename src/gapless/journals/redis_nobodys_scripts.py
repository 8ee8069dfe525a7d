"""The scripts of the Redis store for commands and for runs that are nobody's, as those in `redis_scripts.py`."""

from __future__ import annotations

from gapless.journals.redis_moves import MOVED
from gapless.journals.redis_scripts import ACTIVE, RUN_FIELDS, TELL, Script

__all__ = [
    "COLLECT",
    "CORRECT_WANTED",
    "OFFER",
    "OWN",
    "RELEASE",
    "RESERVE",
    "SEND",
    "SETTLE_CLAIM",
    "WANT",
    "WANTED",
]

_NEXT_ID = """
local function next_id(run)
  local now = redis.call('TIME')
  local last = tonumber(redis.call('HGET', run, 'command_id') or 0)
  local id = string.format('%.0f', math.max(last + 1, now[1] * 1000 + math.floor(now[2] / 1000)))
  redis.call('HSET', run, 'command_id', id)
  return id
end
"""
"""`next_id` is that of a run's next command. By the clock, so that a server that has lost the last ids in a failover
does not give them again: an owner that has heard them would take what is new for a repetition."""

SEND = Script(
    ACTIVE
    + _NEXT_ID
    + TELL
    + """
local place, id, command, seq, nonce, listed = unpack(ARGV)
local run = place .. 'run:' .. id
local is = redis.call('HMGET', run, 'owner', 'status', 'last', 'answered')
if not is[2] then
  return false
end
local answers = seq ~= ''
if answers and is[4] == nonce then
  return {'sent', is[1]}
end
if answers and (is[2] ~= 'waiting' or tonumber(is[3]) ~= tonumber(seq)) then
  return {'not waiting', ''}
end
if not active[is[2]] then
  return {'sent', ''}
end
if is[1] == '' and listed ~= '1' then
  return {'nobodys', ''}
end
redis.call('HSET', place .. 'kept:' .. id, next_id(run), command)  -- fails where it is no hash, before the run changes
if answers then
  redis.call('HSET', run, 'status', 'running', 'answered', nonce)
  tell(place)
end
if is[1] == '' then
  redis.call('HSET', run, 'wanted_at', 0)
else
  redis.call('PUBLISH', 'gapless:' .. is[1], 'c' .. id)
end
return {'sent', is[1]}
"""
)
"""Keeps a command. One for a run that is nobody's is kept once the index says that the run is wanted."""

COLLECT = Script(
    _NEXT_ID
    + """
local place, id, heard = ARGV[1], ARGV[2], tonumber(ARGV[3])
local kept, old = place .. 'kept:' .. id, place .. 'commands:' .. id
for _, command in ipairs(redis.call('LRANGE', old, 0, -1)) do  -- sent by a worker of an earlier version
  redis.call('HSET', kept, next_id(place .. 'run:' .. id), command)
end
redis.call('DEL', old)
local ids, found = redis.call('HKEYS', kept), {}
table.sort(ids, function(a, b) return tonumber(a) < tonumber(b) end)
for _, command_id in ipairs(ids) do
  if tonumber(command_id) > heard then
    found[#found + 1] = command_id
    found[#found + 1] = redis.call('HGET', kept, command_id)
  end
end
return found
"""
)

RELEASE = Script(
    ACTIVE
    + MOVED
    + """
local place, id, me, nonce, wanted_at, what, at = unpack(ARGV)
local run = place .. 'run:' .. id
local is = redis.call('HMGET', run, 'owner', 'status', 'moved', 'wanted_at')
if is[1] == '' and is[3] == nonce then
  return is[4] == '0' and 1 or 0
end
if is[1] ~= me or not active[is[2]] then
  return -1
end
local kept = redis.call('EXISTS', place .. 'kept:' .. id, place .. 'commands:' .. id) > 0
if is[2] ~= 'waiting' or kept then
  wanted_at = '0'
end
redis.call('HSET', run, 'owner', '', 'moved', nonce, 'wanted_at', wanted_at)
left(run, what, me, '', at)
return wanted_at == '0' and 1 or 0
"""
)

OWN = Script(
    ACTIVE
    + MOVED
    + f"""
local run, me, turn, nonce, at = KEYS[1], unpack(ARGV)
local is = redis.call('HMGET', run, 'owner', 'status', 'turn', 'moved')
if is[1] ~= me or is[4] ~= nonce then
  if is[1] ~= '' or not active[is[2]] or (is[3] or '0') ~= turn then
    return false
  end
  redis.call('HSET', run, 'owner', me, 'moved', nonce)
  redis.call('HDEL', run, 'wanted_at')
  arrived(run, me, at)
end
return redis.call('HMGET', run, {", ".join(repr(f) for f in RUN_FIELDS)})
"""
)
"""Makes a worker the owner of a run that is nobody's, unless the run has had a turn since it was looked at: the worker
may be fenced by then, and what it had begun is settled by whoever fenced it."""

# The index. Runs that are nobody's are listed in `{gapless}:wanted`, by when they want somebody. A worker lists one
# before it gives it up, and lists it as its own before it claims it; what it leaves halfway is settled by whoever
# fences it.

OFFER = Script("""
local me, member, wanted_at = unpack(ARGV)
if redis.call('HEXISTS', KEYS[1], me) == 0 then
  return 0
end
redis.call('ZADD', '{gapless}:wanted', wanted_at, member)
return 1
""")

WANT = Script("""
local me, member, wanted_at, tell, left = unpack(ARGV)
local listed_at = redis.call('ZSCORE', '{gapless}:wanted', member)
if not listed_at or listed_at == 'inf' or (wanted_at ~= 'inf' and tonumber(wanted_at) < tonumber(listed_at)) then
  redis.call('ZADD', '{gapless}:wanted', wanted_at, member)
end
if left == '1' then
  redis.call('SREM', '{gapless}:active:' .. me, member)
end
if tell == '1' then
  redis.call('PUBLISH', 'gapless:wanted', me)
end
return 1
""")
"""Lists a run no later than it is listed already: whoever has wanted it meanwhile knows more, and an entry that is too
early is corrected by who finds it."""

RESERVE = Script("""
local me, member = unpack(ARGV)
if redis.call('HEXISTS', KEYS[1], me) == 0 then
  return 0
end
redis.call('SADD', '{gapless}:owners', me)
redis.call('SADD', '{gapless}:active:' .. me, member)
return 1
""")

SETTLE_CLAIM = Script("""
local me, member, claimed = unpack(ARGV)
if claimed == '1' then
  return redis.call('ZREM', '{gapless}:wanted', member)
end
return redis.call('SREM', '{gapless}:active:' .. me, member)
""")

WANTED = Script("""
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', ARGV[2], ARGV[3])
""")

CORRECT_WANTED = Script("""
for _, entry in ipairs(cmsgpack.unpack(ARGV[1])) do
  local member, was, is = unpack(entry)
  if redis.call('ZSCORE', KEYS[1], member) == was then
    if is == '' then
      redis.call('ZREM', KEYS[1], member)
    else
      redis.call('ZADD', KEYS[1], is, member)
    end
  end
end
return 1
""")
