"""The scripts of the Redis store: each step that must be whole, in Lua, as the server runs it.

A script's first key names the hash slot (a session's, or the one of what spans sessions); it makes the other keys of
that slot from its arguments. What a script answers stands where it is called.
"""

from __future__ import annotations

import hashlib

from gapless.journals.redis_moves import MOVED
from gapless.moves import TAKEN_OVER

__all__ = [
    "ACTIVE",
    "ACTIVE_RUNS",
    "APPEND",
    "CLAIM",
    "CREATE",
    "CREATE_SESSION",
    "DELETE",
    "DROP_EVENTS",
    "FENCE",
    "FINISH_RUNS",
    "FORGET_EVENTS",
    "KEEP_BLOB",
    "OLDEST_ACTIVE",
    "PAST_RETENTION",
    "REGISTER_RUN",
    "RENAME_SESSION",
    "RENEW",
    "RUN_FIELDS",
    "SESSION_FIELDS",
    "SETTLE",
    "START",
    "TAKE",
    "TELL",
    "TRY",
    "UPDATE_STATE",
    "WATCH",
    "Script",
]

RUN_FIELDS = (
    *("record", "owner", "status", "last", "started_at", "ended_at", "error", "expired", "takeovers", "bytes", "usage"),
)
"""What makes a run's record, in the order in which scripts answer it."""
SESSION_FIELDS = ("record", "updated_at", "title", "state")
"""What makes a session's record. The title that it was made with is in `record`; one that it was given since is a field
of its own."""
EXPIRE_RUNS = 100
"""Runs that one call names whose events are past their retention."""
VOID_S = 3600
"""How long it is remembered which claims to a run's id no run may be created under any more."""


class Script:
    """One Lua script, known to the server by the SHA-1 of its source."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


ACTIVE = "local active = {queued = true, running = true, waiting = true}\n"
"""What a script begins with that asks whether a run is active."""
TRY = """
local damaged = {}
local function try(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then
    return answer
  end
  if not string.find(answer.err, '^WRONGTYPE') and not string.find(answer.err, '^ERR The ID') then
    error(answer)
  end
  damaged[#damaged + 1] = key
end
"""
"""`try` answers nil where somebody else has put something into a key of this store. It costs what was in that key, and
nothing beside it: a script that stops halfway has not undone what it wrote."""

TELL = """
local function tell(place)
  local watchers = redis.pcall('ZRANGE', place .. 'watchers', 0, -1)
  for _, watcher in ipairs(watchers.err and {} or watchers) do
    redis.call('PUBLISH', 'gapless:' .. watcher, 's' .. place)
  end
  local record = redis.pcall('HGET', place .. 'session', 'record')
  local read, session = pcall(cjson.decode, record)
  if read and type(session) == 'table' and session.user_id then
    redis.call('PUBLISH', 'gapless:user:' .. session.user_id, session.id)
    redis.call('PUBLISH', 'gapless:user:\\n', session.id)
  end
end
"""
"""`tell` says to those who watch a session, its user or `EVERYONE`, that it has changed."""

_QUEUE = (
    ACTIVE
    + """
local function goes_on(place, id)
  local is = redis.pcall('HMGET', place .. 'run:' .. id, 'record', 'status')
  if is.err and not string.find(is.err, '^WRONGTYPE') then
    error(is)
  end
  return is[1] and active[is[2]] or false
end
local function pass_over(place, id)
  redis.log(redis.LOG_WARNING, 'gapless: run ' .. id .. ' waits in a queue and its record is gone: it is passed over')
  redis.call('LREM', place .. 'queue', 1, id)
end
local function oldest(place)
  local id = redis.call('LINDEX', place .. 'queue', 0)
  while id and not goes_on(place, id) do
    pass_over(place, id)
    id = redis.call('LINDEX', place .. 'queue', 0)
  end
  return id
end
"""
)
"""`oldest` is the run at the head of a session's queue, or false: the session is busy with it. A run whose record
somebody has removed or replaced would keep its session busy for ever: it leaves the queue."""

APPEND = Script(
    ACTIVE
    + TRY
    + TELL
    + """
local function keep(place, id, more)
  local run, checkpoint = place .. 'run:' .. id, place .. 'checkpoint:' .. id
  for _, command_id in ipairs(more.taken) do
    try('HDEL', place .. 'kept:' .. id, command_id)
  end
  for _, notice in ipairs(more.notices) do
    try('HSET', place .. 'notices:' .. id, notice[1], '1' .. notice[2])
  end
  local saved = more.data and ARGV[more.data]
  if saved then
    redis.call('DEL', checkpoint)
    if saved ~= '' then
      redis.call('HSET', checkpoint, 'seq', more.seq, 'data', saved)
      redis.call('HDEL', run, 'takeovers')
    end
  end
end
local function entitle(session, title)
  local is = try('HMGET', session, 'record', 'title')
  if not is or not is[1] then
    return
  end
  local has = is[2]
  if not has then
    local read, record = pcall(cjson.decode, is[1])
    has = read and type(record) == 'table' and record.title
  end
  if not has or has == '' then
    redis.call('HSET', session, 'title', title)
  end
end
local me, sizes, behind, news = ARGV[1], {}, {}, {}
for i, batch in ipairs(cmsgpack.unpack(ARGV[2])) do
  local place, id, first, n, data, at, status, ended, more = unpack(batch, 1, 9)
  local run, events, last = place .. 'run:' .. id, place .. 'events:' .. id, first + n - 1
  local is = try('HMGET', run, 'owner', 'status', 'last', 'watchers', 'bytes') or {}
  local size = tonumber(is[5] or 0) or 0
  if is[1] ~= me or not tonumber(is[3]) then
    size = -1
  elseif active[is[2]] and tonumber(is[3]) + 1 < first then
    behind[#behind + 1] = {i - 1, tonumber(is[3])}
    size = -1
  elseif not active[is[2]] or tonumber(is[3]) + 1 ~= first then
    local entry = (try('XRANGE', events, first, first) or {})[1]
    if tonumber(is[3]) ~= last or not entry or entry[2][2] ~= data then
      size = -1
    end
  else
    if n > 0 then
      size = size + #data
      local entry_id = first .. '-' .. (first > 1 and at or 0)
      if not try('XADD', events, entry_id, 'e', data) then
        redis.call('RENAME', events, place .. 'damaged:' .. id)
        redis.call('XADD', events, entry_id, 'e', data)
      end
      if first == 1 then
        redis.call('HSET', run, 'began_at', at)
      end
      redis.call('HSET', run, 'last', last, 'bytes', size)
    end
    if more then
      keep(place, id, more)
    end
    if status then
      redis.call('HSET', run, 'status', status)
    end
    if ended then
      redis.call('HSET', run, 'ended_at', ended.at, 'error', ended.error, 'usage', ended.usage)
      redis.call('HDEL', run, 'watchers')
      redis.call('DEL', place .. 'commands:' .. id, place .. 'kept:' .. id, place .. 'checkpoint:' .. id)
      try('LREM', place .. 'queue', 1, id)
      try('RPUSH', place .. 'turns', ended.turn)
      try('HSET', place .. 'session', 'updated_at', ended.at)
      entitle(place .. 'session', ended.title)
      if ended.state then
        try('HSET', place .. 'session', 'state', ended.state)
      end
    end
    if status then
      tell(place)
    end
    for watcher in string.gmatch(is[4] or '', '[^\\n]+') do
      if watcher ~= me and n > 0 then
        news[watcher] = news[watcher] or {}
        table.insert(news[watcher], {id, first, data, ended and true or false})
      end
    end
  end
  sizes[i] = size
end
for watcher, told in pairs(news) do
  redis.call('PUBLISH', 'gapless:' .. watcher, 'e' .. cmsgpack.pack(told))
end
return {sizes, behind, damaged}
"""
)

KEEP_BLOB = Script(
    ACTIVE
    + """
local place, id, me, field, data = unpack(ARGV)
local run = place .. 'run:' .. id
local is = redis.call('HMGET', run, 'owner', 'status')
if is[1] ~= me or not active[is[2]] then
  return 0
end
if redis.call('HSETNX', place .. 'blobs:' .. id, field, data) == 1 then
  redis.call('HINCRBY', run, 'bytes', #data)
end
return 1
"""
)

CREATE = Script(
    _QUEUE
    + TELL
    + """
local place, id, me, nonce, record, session, user, created_at, state, reject_busy, claim, started_at = unpack(ARGV)
local run = place .. 'run:' .. id
local is = redis.call('HMGET', run, 'record', 'nonce', 'spent', 'started_at')
if is[1] then
  return is[2] == nonce and {'created', is[4] or ''} or 'known'
end
if tonumber(claim) <= tonumber(is[3] or 0) then
  return 'void'
end
local known = redis.call('HGET', place .. 'session', 'record')
if known and cjson.decode(known).user_id ~= user then
  return 'of another user'
end
redis.call('LLEN', place .. 'runs')  -- fails where it is no list, before anything is written
local busy = oldest(place)
if busy and reject_busy == '1' then
  return {'busy', busy}
end
redis.call('HSET', run, 'record', record, 'owner', me, 'status', 'queued', 'last', 0, 'nonce', nonce, 'spent', claim)
if busy then
  started_at = ''
end
if started_at ~= '' then
  redis.call('HSET', run, 'status', 'running', 'started_at', started_at)
end
redis.call('PERSIST', run)
if not known then
  redis.call('HSET', place .. 'session', 'record', session, 'updated_at', created_at, 'state', state)
end
redis.call('RPUSH', place .. 'queue', id)
redis.call('RPUSH', place .. 'runs', id)
tell(place)
return {'created', started_at}
"""
)

START = Script(
    _QUEUE
    + TELL
    + """
local place, id, me, at = unpack(ARGV)
local run = place .. 'run:' .. id
local is = redis.call('HMGET', run, 'owner', 'status', 'started_at')
if is[1] == me and is[2] == 'running' and is[3] == at then
  return 'started'
end
if is[1] ~= me or is[2] ~= 'queued' then
  return 'not queued'
end
local behind = redis.call('LPOS', place .. 'queue', id) or 0
while behind > 0 do
  local ahead = redis.call('LINDEX', place .. 'queue', behind - 1)
  if goes_on(place, ahead) then
    return {ahead}
  end
  pass_over(place, ahead)
  behind = behind - 1
end
redis.call('HSET', run, 'status', 'running', 'started_at', at)
tell(place)
return 'started'
"""
)

TAKE = Script(
    ACTIVE
    + MOVED
    + f"""
local run, dead, me, claim, at = KEYS[1], unpack(ARGV)
local is = redis.call('HMGET', run, 'record', 'owner', 'status', 'spent')
if not is[1] then
  if tonumber(claim) > tonumber(is[4] or 0) then
    redis.call('HSET', run, 'spent', claim)
  end
  redis.call('EXPIRE', run, {VOID_S})
  return {{'void'}}
end
if active[is[3]] then
  if is[2] == '' and dead ~= '' then
    redis.call('HINCRBY', run, 'turn', 1)
    return {{'nobodys', redis.call('HGET', run, 'wanted_at')}}
  end
  if is[2] ~= dead and is[2] ~= me then
    return {{'other'}}
  end
  redis.call('HSET', run, 'owner', me)
  if is[2] ~= me then
    redis.call('HINCRBY', run, 'takeovers', 1)
    left(run, '{TAKEN_OVER}', is[2], me, at)
  end
end
return {{active[is[3]] and 'taken' or 'ended', redis.call('HMGET', run, {", ".join(repr(f) for f in RUN_FIELDS)})}}
"""
)

OLDEST_ACTIVE = Script(
    _QUEUE
    + f"""
local id = oldest(ARGV[1])
return id and {{id, redis.call('HMGET', ARGV[1] .. 'run:' .. id, {", ".join(repr(f) for f in RUN_FIELDS)})}}
"""
)

WATCH = Script(
    ACTIVE
    + """
local run, me, on = KEYS[1], ARGV[1], ARGV[2] == '1'
local is = redis.call('HMGET', run, 'status', 'watchers')
if not is[1] then
  return false
end
if not active[is[1]] then
  return 0
end
local watchers = {}
for watcher in string.gmatch(is[2] or '', '[^\\n]+') do
  if watcher ~= me then
    watchers[#watchers + 1] = watcher
  end
end
if on then
  watchers[#watchers + 1] = me
end
redis.call('HSET', run, 'watchers', table.concat(watchers, '\\n'))
return 1
"""
)

DROP_EVENTS = Script("""
local place, id = unpack(ARGV)
if redis.call('HEXISTS', place .. 'run:' .. id, 'record') == 0 then
  return 0
end
redis.call('UNLINK', place .. 'events:' .. id, place .. 'blobs:' .. id)
local notices = redis.pcall('HGETALL', place .. 'notices:' .. id)
for i = 1, notices.err and 0 or #notices, 2 do
  if string.sub(notices[i + 1], 1, 1) == '0' then
    redis.call('HDEL', place .. 'notices:' .. id, notices[i])
  end
end
redis.call('HDEL', place .. 'run:' .. id, 'moves')
return redis.call('HSET', place .. 'run:' .. id, 'expired', 1)
""")

DELETE = Script(
    _QUEUE
    + TRY
    + TELL
    + f"""
local place, runs = ARGV[1], {{}}
local busy = oldest(place)
if busy then
  return {{'busy', busy}}
end
for i, id in ipairs(redis.call('LRANGE', place .. 'runs', 0, -1)) do
  local run = place .. 'run:' .. id
  local claim = try('HGET', run, 'spent') or '0'
  runs[i] = {{id, claim}}
  for _, of_run in ipairs({{'events:', 'blobs:', 'commands:', 'kept:', 'checkpoint:', 'notices:'}}) do
    redis.call('UNLINK', place .. of_run .. id)
  end
  redis.call('UNLINK', run)
  redis.call('HSET', run, 'spent', claim)
  redis.call('EXPIRE', run, {VOID_S})
end
redis.call('UNLINK', place .. 'runs', place .. 'turns')
tell(place)
return {{redis.call('DEL', place .. 'session'), runs}}
"""
)

CREATE_SESSION = Script(
    TELL
    + f"""
local session, record, updated_at, state, place = KEYS[1], unpack(ARGV)
if redis.call('HSETNX', session, 'record', record) == 1 then
  redis.call('HSET', session, 'updated_at', updated_at, 'state', state)
  tell(place)
end
return redis.call('HMGET', session, {", ".join(map(repr, SESSION_FIELDS))})
"""
)

RENAME_SESSION = Script(
    TELL
    + f"""
if redis.call('HEXISTS', KEYS[1], 'record') == 0 then
  return false
end
redis.call('HSET', KEYS[1], 'title', ARGV[1])
tell(ARGV[2])
return redis.call('HMGET', KEYS[1], {", ".join(map(repr, SESSION_FIELDS))})
"""
)

UPDATE_STATE = Script(
    _QUEUE
    + TELL
    + """
local place, before, after, updated_at = unpack(ARGV)
local busy = oldest(place)
if busy then
  return {'busy', busy}
end
if redis.call('HGET', place .. 'session', 'state') ~= before then
  return 'changed'
end
redis.call('HSET', place .. 'session', 'state', after, 'updated_at', updated_at)
tell(place)
return 'updated'
"""
)

# The index: one slot, for what spans sessions.

REGISTER_RUN = Script("""
local me, member, user, session, created_at = unpack(ARGV)
if redis.call('HEXISTS', KEYS[1], me) == 0 then
  return 0
end
redis.call('SADD', '{gapless}:owners', me)
redis.call('SADD', '{gapless}:active:' .. me, member)
local number = redis.call('INCR', '{gapless}:counter')
for _, list in ipairs({'{gapless}:runs', '{gapless}:runs:' .. user}) do
  redis.call('ZADD', list, 'NX', number, member)
end
for _, list in ipairs({'{gapless}:sessions', '{gapless}:sessions:' .. user}) do
  redis.call('ZADD', list, 'NX', created_at, session)
end
return number
""")

FINISH_RUNS = Script("""
for _, run in ipairs(cmsgpack.unpack(ARGV[2])) do
  local member, user, session, ended_at, bytes, has_failed = unpack(run)
  redis.call('SREM', '{gapless}:active:' .. ARGV[1], member)
  local number = has_failed and redis.call('ZSCORE', '{gapless}:runs', member)
  if number then
    redis.call('ZADD', '{gapless}:failed', number, member)
  end
  if redis.call('ZADD', '{gapless}:ended', ended_at, member) == 1 then
    redis.call('HSET', '{gapless}:kept', member, bytes)
    redis.call('INCRBY', '{gapless}:kept_bytes', bytes)
  end
  for _, list in ipairs({'{gapless}:sessions', '{gapless}:sessions:' .. user}) do
    redis.call('ZADD', list, 'GT', ended_at, session)
  end
end
return 1
""")

PAST_RETENTION = Script(f"""
local ended_before, bytes_max = unpack(ARGV)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ended_before, 'LIMIT', 0, {EXPIRE_RUNS})
if #due > 0 or bytes_max == '' then
  return due
end
local over = tonumber(redis.call('GET', '{{gapless}}:kept_bytes') or 0) - tonumber(bytes_max)
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, {EXPIRE_RUNS - 1})) do
  if over <= 0 then
    break
  end
  due[#due + 1] = member
  over = over - tonumber(redis.call('HGET', '{{gapless}}:kept', member) or 0)
end
return due
""")

FORGET_EVENTS = Script("""
for _, member in ipairs(ARGV) do
  if redis.call('ZREM', KEYS[1], member) == 1 then
    redis.call('DECRBY', '{gapless}:kept_bytes', redis.call('HGET', '{gapless}:kept', member) or 0)
    redis.call('HDEL', '{gapless}:kept', member)
  end
end
return 1
""")

RENEW = Script("""
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
return redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
""")

FENCE = Script("""
local me, beats = ARGV[1], cmsgpack.unpack(ARGV[2])
if redis.call('HEXISTS', KEYS[1], me) == 0 then
  return 0
end
for worker, beat in pairs(beats) do
  if tonumber(redis.call('HGET', KEYS[1], worker)) == beat then
    redis.call('HDEL', KEYS[1], worker)
  end
end
local left = {}
for _, owner in ipairs(redis.call('SMEMBERS', '{gapless}:owners')) do
  if redis.call('HEXISTS', KEYS[1], owner) == 0 then
    local members = redis.call('SMEMBERS', '{gapless}:active:' .. owner)
    if #members == 0 then
      redis.call('SREM', '{gapless}:owners', owner)
    else
      redis.call('SADD', '{gapless}:owners', me)
      for _, member in ipairs(members) do
        redis.call('SADD', '{gapless}:active:' .. me, member)
        left[#left + 1] = {owner, member}
      end
    end
  end
end
return {redis.call('INCR', '{gapless}:counter'), left}
""")

SETTLE = Script("""
local me, settled = ARGV[1], cmsgpack.unpack(ARGV[2])
for _, s in ipairs(settled) do
  local dead, member, taken = unpack(s)
  if dead ~= me then
    redis.call('SREM', '{gapless}:active:' .. dead, member)
  end
  if not taken then
    redis.call('SREM', '{gapless}:active:' .. me, member)
  end
end
return 1
""")

ACTIVE_RUNS = Script("""
local members = {}
for _, owner in ipairs(redis.call('SMEMBERS', '{gapless}:owners')) do
  for _, member in ipairs(redis.call('SMEMBERS', '{gapless}:active:' .. owner)) do
    members[member] = tonumber(redis.call('ZSCORE', '{gapless}:runs', member) or 0)
  end
end
for _, member in ipairs(redis.call('ZRANGE', '{gapless}:wanted', 0, -1)) do
  members[member] = tonumber(redis.call('ZSCORE', '{gapless}:runs', member) or 0)
end
local sorted = {}
for member in pairs(members) do
  sorted[#sorted + 1] = member
end
table.sort(sorted, function(a, b) return members[a] > members[b] end)
local numbered = {}
for _, member in ipairs(sorted) do
  numbered[#numbered + 1] = {member, members[member]}
end
return numbered
""")


CLAIM = Script("""
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2])
end
return 1
""")
