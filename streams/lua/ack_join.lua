-- Make a group of a partition a work queue. A group that an operator had dropped counts again from here on.
-- KEYS: entries, group state, appended
-- ARGV: group
-- Returns 1, or 0 when the group is leased by a processor or a consumer: its offset would mean something else.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'offset')
if known[1] then
  return 0
end
local groups = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], known[2] or '0', 'MKSTREAM')
if groups.err and not string.find(groups.err, 'BUSYGROUP') then
  return redis.error_reply(groups.err)
end
local was = redis.call('HMGET', KEYS[2], 'dropped', 'read', 'lost')
if was[1] then
  -- Meanwhile entries were trimmed that this group had not read: it is not behind by them any more.
  local lost = tonumber(redis.call('GET', KEYS[3]) or '0') - tonumber(was[2] or '0') - tonumber(was[3] or '0')
    - redis.call('XLEN', KEYS[1])
  if lost > 0 then
    redis.call('HINCRBY', KEYS[2], 'lost', lost)
  end
  redis.call('HDEL', KEYS[2], 'dropped')
end
redis.call('HSET', KEYS[2], 'mode', 'work_queue')
return 1
