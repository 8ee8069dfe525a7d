"""The scripts of the Redis store that read a journal: its events, and when they were accepted."""

from __future__ import annotations

from gapless.journals.redis_scripts import TRY, Script

__all__ = ["READ", "TIMES"]

TIMES_ENTRIES_MAX = 1_000
"""Batches that one call looks at for their times."""

READ = Script(
    TRY
    + """
local place, id, after, limit, bytes_max = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local is = redis.call('HMGET', place .. 'run:' .. id, 'record', 'expired', 'last')
if not is[1] then
  return false
end
if is[2] then
  return 'expired'
end
local events, parts, size = place .. 'events:' .. id, {}, 0
local entry = (try('XREVRANGE', events, after + 1, '-', 'COUNT', 1) or {})[1]
if not entry then
  if tonumber(is[3]) > after then
    return 'lost'
  end
  return {1, ''}
end
local first = tonumber(string.match(entry[1], '^%d+'))
local from = first .. '-0'
while true do
  local entries = redis.call('XRANGE', events, from, '+', 'COUNT', 100)
  for _, e in ipairs(entries) do
    parts[#parts + 1] = e[2][2]
    size = size + #e[2][2]
    if size >= bytes_max or tonumber(string.match(e[1], '^%d+')) - after > limit then
      return {first, table.concat(parts, '\\n')}
    end
  end
  if #entries < 100 then
    return {first, table.concat(parts, '\\n')}
  end
  from = '(' .. entries[#entries][1]
end
"""
)

TIMES = Script(
    TRY
    + f"""
local place, id, after, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local run, events, times = place .. 'run:' .. id, place .. 'events:' .. id, {{}}
local is = redis.call('HMGET', run, 'record', 'expired', 'began_at')
if not is[1] then
  return false
end
if is[2] then
  return 'expired'
end
local function time_of(entry)
  local seq, at = string.match(entry[1], '^(%d+)-(%d+)')
  return tonumber(seq), seq == '1' and (is[3] or '0') or at
end
local before = (try('XREVRANGE', events, after, '-', 'COUNT', 1) or {{}})[1]
local known = before and select(2, time_of(before)) or '0'
local looked = 0
while #times < limit and looked < {TIMES_ENTRIES_MAX} do
  local entries = try('XRANGE', events, after + 1, '+', 'COUNT', 100) or {{}}
  if #entries == 0 then
    return {{times, -1}}
  end
  for _, entry in ipairs(entries) do
    local seq, at = time_of(entry)
    if at ~= '0' and at ~= known and #times < limit then
      times[#times + 1] = {{seq, at}}
      known = at
    end
    after = seq
  end
  looked = looked + #entries
end
return {{times, after}}
"""
)
