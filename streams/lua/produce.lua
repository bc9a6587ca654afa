-- Append a batch of one producer to one partition of one stream, each record once.
-- KEYS: entries, producer state, appended, event ids of the bucket before, of this one (by the caller's clock) and of the
--       one after (another caller's clock may be ahead), then the state of each declared group
-- ARGV: stream, epoch, first sequence, max records (0: no limit), ms to keep event ids, ms to keep producer state,
--       most records that the slowest group may be behind afterwards (0: no limit),
--       then for each record: payload, traceparent, event id
-- Returns {'OK', accepted, duplicates, dropped: trimmed before some group read them} | {'FENCED', epoch}
--       | {'GAP', last sequence, known epoch: 0 when the producer is not known (any more)} | {'FULL', backlog}
local stream, epoch, first = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local max_records, keep_ids_ms, keep_state_ms, limit =
  tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local FIRST = 8
local count = (#ARGV - FIRST + 1) / 3

local known = redis.call('HMGET', KEYS[2], 'epoch', 'last:' .. stream, 'answer:' .. stream)
local known_epoch = tonumber(known[1] or '0')
if epoch < known_epoch then
  return {'FENCED', known_epoch}
end
local last = 0
if epoch == known_epoch then
  last = tonumber(known[2] or '0')
  if first + count - 1 <= last then
    -- A retry of a batch whose answer was lost. It writes, too: a WAITAOF that follows waits for nothing otherwise.
    redis.call('PEXPIRE', KEYS[2], keep_state_ms)
    return cjson.decode(known[3])
  end
end
if first ~= last + 1 then
  return {'GAP', last, known_epoch}
end
if limit > 0 then
  local total, backlog = tonumber(redis.call('GET', KEYS[3]) or '0'), 0
  for i = 7, #KEYS do
    local group = redis.call('HMGET', KEYS[i], 'read', 'dropped', 'lost')
    if not group[2] then
      backlog = math.max(backlog, total - tonumber(group[1] or '0') - tonumber(group[3] or '0'))
    end
  end
  if backlog + count > limit and backlog > 0 then
    return {'FULL', backlog}
  end
end

-- Nothing above writes; nothing below refuses.
if epoch > known_epoch then
  redis.call('DEL', KEYS[2])
end
local accepted, duplicates, with_ids = 0, 0, false
for i = FIRST, #ARGV, 3 do
  local event_id, fresh = ARGV[i + 2], true
  if event_id ~= '' then
    with_ids = true
    fresh = redis.call('SISMEMBER', KEYS[4], event_id) == 0 and redis.call('SISMEMBER', KEYS[6], event_id) == 0
      and redis.call('SADD', KEYS[5], event_id) == 1
  end
  if fresh then
    accepted = accepted + 1
    if ARGV[i + 1] ~= '' then
      redis.call('XADD', KEYS[1], '*', 'payload', ARGV[i], 'traceparent', ARGV[i + 1])
    else
      redis.call('XADD', KEYS[1], '*', 'payload', ARGV[i])
    end
  else
    duplicates = duplicates + 1
  end
end
if with_ids then
  redis.call('PEXPIRE', KEYS[5], keep_ids_ms)
end
local appended, dropped = redis.call('INCRBY', KEYS[3], accepted), 0
if max_records > 0 and redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', max_records) > 0 then
  local present = redis.call('XLEN', KEYS[1])
  for i = 7, #KEYS do
    -- What is unread is at the end of the stream, so what does not fit into it any more was lost to the group.
    local group = redis.call('HMGET', KEYS[i], 'read', 'lost')
    local lost = appended - tonumber(group[1] or '0') - tonumber(group[2] or '0') - present
    if lost > 0 then
      redis.call('HINCRBY', KEYS[i], 'lost', lost)
      dropped = math.max(dropped, lost)
    end
  end
end
local answer = {'OK', accepted, duplicates, dropped}
redis.call('HSET', KEYS[2], 'epoch', ARGV[2], 'last:' .. stream, first + count - 1,
  'answer:' .. stream, cjson.encode(answer))
redis.call('PEXPIRE', KEYS[2], keep_state_ms)
return answer
