-- Commit one step of a processor on one partition: outputs, state, dead letters and offset, all or nothing.
-- KEYS: input entries, group state, then whatever the arguments point to by number
-- ARGV: group, owner, lease epoch, expected offset, new offset, records read, keep ms (-1: no trimming here),
--       1 when XGROUP SETID takes ENTRIESREAD,
--       number of fences,  then for each: key number, generation
--       number of outputs, then for each: key number, payload, traceparent
--       number of state,   then for each: key number, field, value
-- Returns {'OK'} | {'LEASE_LOST'} | {'OFFSET_MOVED', offset} | {'FENCED', key number, generation}
local lease = redis.call('HMGET', KEYS[2], 'owner', 'epoch', 'offset', 'read')
if lease[1] ~= ARGV[2] or lease[2] ~= ARGV[3] then
  return {'LEASE_LOST'}
end
local offset = lease[3] or '0-0'
if offset ~= ARGV[4] then
  return {'OFFSET_MOVED', offset}
end
local at = 10
for _ = 1, tonumber(ARGV[9]) do
  local lowest = tonumber(redis.call('GET', KEYS[tonumber(ARGV[at])]) or '0')
  if tonumber(ARGV[at + 1]) < lowest then
    return {'FENCED', tonumber(ARGV[at]), lowest}
  end
  at = at + 2
end

-- Nothing above writes; nothing below refuses.
local outputs = tonumber(ARGV[at])
at = at + 1
for _ = 1, outputs do
  local key = KEYS[tonumber(ARGV[at])]
  if ARGV[at + 2] ~= '' then
    redis.call('XADD', key, '*', 'payload', ARGV[at + 1], 'traceparent', ARGV[at + 2])
  else
    redis.call('XADD', key, '*', 'payload', ARGV[at + 1])
  end
  at = at + 3
end
local states = tonumber(ARGV[at])
at = at + 1
for _ = 1, states do
  redis.call('HSET', KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2])
  at = at + 3
end
local read = tonumber(lease[4] or '0') + tonumber(ARGV[6])
redis.call('HSET', KEYS[2], 'offset', ARGV[5], 'read', read)
-- The group's own position, so that XINFO GROUPS and every Redis tool show the truth.
if ARGV[8] == '1' then
  redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[5], 'ENTRIESREAD', read)
else
  redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[5])
end
local keep_ms = tonumber(ARGV[7])
if keep_ms >= 0 then
  local now = redis.call('TIME')
  local oldest = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000) - keep_ms
  local committed = tonumber(string.match(ARGV[5], '^%d+'))
  redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', math.min(oldest, committed)))
end
return {'OK'}
