-- Forget the replicas that went silent, and list the reports of the others.
-- KEYS: replicas, reports
-- Returns {replica id, report, replica id, report, ...}
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local silent = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_ms))
for _, replica in ipairs(silent) do
  redis.call('ZREM', KEYS[1], replica)
  redis.call('HDEL', KEYS[2], replica)
end
return redis.call('HGETALL', KEYS[2])
