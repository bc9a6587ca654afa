-- Commit one step of a processor on one partition: outputs, state, dead letters and offset, all or nothing.
-- KEYS: input entries, group state, then whatever the arguments point to by number
-- ARGV: group, owner, lease epoch, expected offset, new offset, records read, keep ms (-1: no trimming here),
--       1 when XGROUP SETID takes ENTRIESREAD, key number of the dead letters (0: none in this step), most of them to keep,
--       number of other declared groups of the input, then for each: key number of its state
--       number of fences, then for each: key number, generation
--       number of output streams, then for each: key number of entries, of appended, records, most records that its
--         slowest group may be behind afterwards (0: no limit), number of groups, their key numbers
--       number of outputs, then for each: key number, payload, traceparent
--       number of state,   then for each: key number, field, value
-- Returns {'OK'} | {'LEASE_LOST'} | {'OFFSET_MOVED', offset} | {'FENCED', key number, generation}
--       | {'FULL', key number, backlog}
local lease = redis.call('HMGET', KEYS[2], 'owner', 'epoch', 'offset', 'read')
if lease[1] ~= ARGV[2] or lease[2] ~= ARGV[3] then
  return {'LEASE_LOST'}
end
local offset = lease[3] or '0-0'
if offset ~= ARGV[4] then
  if offset ~= ARGV[5] then
    return {'OFFSET_MOVED', offset}
  end
  -- Under this lease only its owner moves the offset: this very step is committed, and its answer was lost. It writes,
  -- too: a WAITAOF that follows waits for nothing otherwise.
  redis.call('HSET', KEYS[2], 'offset', offset)
  return {'OK'}
end
local at = 11
local function take()
  at = at + 1
  return tonumber(ARGV[at - 1])
end
local others = {}
for i = 1, take() do
  others[i] = KEYS[take()]
end
for _ = 1, take() do
  local key, generation = take(), take()
  local lowest = tonumber(redis.call('GET', KEYS[key]) or '0')
  if generation < lowest then
    return {'FENCED', key, lowest}
  end
end
local grown = {}
for i = 1, take() do
  local entries, appended_key, count, limit = take(), KEYS[take()], take(), take()
  local appended, backlog = tonumber(redis.call('GET', appended_key) or '0'), 0
  for _ = 1, take() do
    local group = redis.call('HMGET', KEYS[take()], 'read', 'dropped', 'lost')
    if not group[2] then
      backlog = math.max(backlog, appended - tonumber(group[1] or '0') - tonumber(group[3] or '0'))
    end
  end
  if limit > 0 and backlog > 0 and backlog + count > limit then
    return {'FULL', entries, backlog}
  end
  grown[i] = {appended_key, count}
end

-- Nothing above writes; nothing below refuses.
for _, growth in ipairs(grown) do
  redis.call('INCRBY', growth[1], growth[2])
end
for _ = 1, take() do
  local key, payload, traceparent = KEYS[take()], ARGV[at], ARGV[at + 1]
  at = at + 2
  if traceparent ~= '' then
    redis.call('XADD', key, '*', 'payload', payload, 'traceparent', traceparent)
  else
    redis.call('XADD', key, '*', 'payload', payload)
  end
end
if ARGV[9] ~= '0' then
  redis.call('XTRIM', KEYS[tonumber(ARGV[9])], 'MAXLEN', '~', ARGV[10])
end
for _ = 1, take() do
  redis.call('HSET', KEYS[take()], ARGV[at], ARGV[at + 1])
  at = at + 2
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
  oldest = math.min(oldest, tonumber(string.match(ARGV[5], '^%d+')))
  for _, group in ipairs(others) do
    local other = redis.call('HMGET', group, 'offset', 'dropped')
    if not other[2] then
      oldest = math.min(oldest, tonumber(string.match(other[1] or '0', '^%d+')))
    end
  end
  redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', oldest))
end
return {'OK'}
