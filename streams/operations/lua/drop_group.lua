-- Say that nobody need wait for a group in this partition: backpressure and retention ignore it.
-- KEYS: group state
-- Returns the owner when the lease is alive, and does nothing then; else an empty string.
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local lease = redis.call('HMGET', KEYS[1], 'owner', 'until_ms')
local owner = lease[1] or ''
if owner ~= '' and tonumber(lease[2] or '0') > now_ms then
  return owner
end
redis.call('HSET', KEYS[1], 'dropped', '1')
return ''
