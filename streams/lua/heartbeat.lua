-- Say that a member is alive (or leaves), forget those that went silent, and list the live ones.
-- KEYS: members
-- ARGV: member, ms of silence after which a member is dead, 1 to leave
-- Returns the live members.
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
if ARGV[3] == '1' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now_ms, ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms - tonumber(ARGV[2]))
return redis.call('ZRANGE', KEYS[1], 0, -1)
