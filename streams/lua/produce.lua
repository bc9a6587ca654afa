-- Append a batch of one producer to one partition of one stream, each record once.
-- KEYS: entries, producer state, appended, the four buckets of event ids, then the state of each declared group
-- ARGV: stream, epoch, first sequence, max records (0: no limit), ms of a bucket of event ids, ms to keep producer
--       state, most records that the slowest group may be behind afterwards (0: no limit),
--       then for each record: payload, traceparent, event id
-- Returns {'OK', accepted, duplicates, dropped: trimmed before some group read them} | {'FENCED', epoch}
--       | {'GAP', last sequence, known epoch: 0 when the producer is not known (any more)} | {'FULL', backlog}
local stream, epoch, first = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local max_records, bucket_ms, keep_state_ms, limit =
  tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local FIRST, BUCKETS, GROUPS = 8, 4, 8
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
  for i = GROUPS, #KEYS do
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
-- Whose turn it is is for the server's clock to say: its clients' may be off by any time. Four buckets take turns. An id
-- goes into the current one, and is known from it, from the one before, and from the one after: there it is when the
-- clock stepped back (after a failover to a replica whose clock is behind). A bucket lasts through the turn after its
-- own, and is gone before the third: the one after is empty then, not what it was four turns ago.
local current, beside
local function look_at_the_clock()
  local now = redis.call('TIME')
  local turn = math.floor((tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)) / bucket_ms)
  current, beside = KEYS[BUCKETS + turn % 4], {}
  for _, key in ipairs({KEYS[BUCKETS + (turn + 3) % 4], KEYS[BUCKETS + (turn + 1) % 4]}) do
    if redis.call('EXISTS', key) == 1 then
      beside[#beside + 1] = key
    end
  end
end
local function is_new(event_id)
  for _, key in ipairs(beside) do
    if redis.call('SISMEMBER', key, event_id) == 1 then
      return false
    end
  end
  return redis.call('SADD', current, event_id) == 1
end

local accepted, duplicates = 0, 0
for i = FIRST, #ARGV, 3 do
  local event_id, fresh = ARGV[i + 2], true
  if event_id ~= '' then
    if not current then
      look_at_the_clock()
    end
    fresh = is_new(event_id)
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
if current then
  redis.call('PEXPIRE', current, 2 * bucket_ms)
end
local appended, dropped = redis.call('INCRBY', KEYS[3], accepted), 0
if max_records > 0 and redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', max_records) > 0 then
  local present = redis.call('XLEN', KEYS[1])
  for i = GROUPS, #KEYS do
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
