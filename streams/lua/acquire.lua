-- Take the lease of a partition if it is free or over. A new owner gets a new fencing epoch. A group that an operator had
-- dropped counts again from here on.
-- KEYS: group state, entries, appended
-- ARGV: owner, lease ms, group
-- Returns {epoch, offset}; epoch 0 when another member holds it, -1 when the group is a work queue.
if redis.call('HGET', KEYS[1], 'mode') == 'work_queue' then
  return {-1, ''}
end
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local known = redis.call('HMGET', KEYS[1], 'owner', 'until_ms', 'offset')
local owner = known[1] or ''
if owner ~= '' and owner ~= ARGV[1] and tonumber(known[2]) > now_ms then
  return {0, ''}
end
local groups = redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[3], '0', 'MKSTREAM')
if groups.err and not string.find(groups.err, 'BUSYGROUP') then
  return redis.error_reply(groups.err)
end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
local was = redis.call('HMGET', KEYS[1], 'dropped', 'read', 'lost')
if was[1] then
  -- Meanwhile entries were trimmed that this group had not read: it is not behind by them any more.
  local lost = tonumber(redis.call('GET', KEYS[3]) or '0') - tonumber(was[2] or '0') - tonumber(was[3] or '0')
    - redis.call('XLEN', KEYS[2])
  if lost > 0 then
    redis.call('HINCRBY', KEYS[1], 'lost', lost)
  end
  redis.call('HDEL', KEYS[1], 'dropped')
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'until_ms', string.format('%.0f', now_ms + tonumber(ARGV[2])))
return {epoch, known[3] or '0-0'}
