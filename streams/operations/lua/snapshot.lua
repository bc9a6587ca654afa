-- A partition as it is at one instant. Writes nothing.
-- KEYS: entries, appended, dead letters, then the state of each group
-- ARGV: the groups' names
-- Returns {now ms, appended, present, first id, last id, last id ever, entries ever added (-1: the server does not count),
--          newest id deleted by hand, dead letters, groups}; a group is
--          {owner, until_ms, epoch, offset, read, lost, dropped, mode, id of the next record, pending}
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)

local function end_of(command, from, to)
  local found = redis.call(command, KEYS[1], from, to, 'COUNT', 1)
  return found[1] and found[1][1] or ''
end

local function pairs_of(flat)
  local named = {}
  for i = 1, #flat, 2 do
    named[flat[i]] = flat[i + 1]
  end
  return named
end

local info, pending = {}, {}
if redis.call('EXISTS', KEYS[1]) == 1 then
  info = pairs_of(redis.call('XINFO', 'STREAM', KEYS[1]))
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = pairs_of(flat)
    pending[group['name']] = group['pending']
  end
end

local groups = {}
for i, name in ipairs(ARGV) do
  local state = redis.call('HMGET', KEYS[i + 3],
    'owner', 'until_ms', 'epoch', 'offset', 'read', 'lost', 'dropped', 'mode')
  local offset = state[4] or '0-0'
  groups[i] = {
    state[1] or '', state[2] or '0', state[3] or '0', offset, state[5] or '0', state[6] or '0', state[7] or '', state[8] or '',
    end_of('XRANGE', '(' .. offset, '+'), pending[name] or 0,
  }
end
return {
  now_ms,
  redis.call('GET', KEYS[2]) or '0',
  redis.call('XLEN', KEYS[1]),
  end_of('XRANGE', '-', '+'),
  end_of('XREVRANGE', '+', '-'),
  info['last-generated-id'] or '0-0',
  info['entries-added'] or -1,
  info['max-deleted-entry-id'] or '0-0',
  redis.call('XLEN', KEYS[3]),
  groups,
}
