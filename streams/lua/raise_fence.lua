-- Raise a strategy's fence in one partition. It never goes down.
-- KEYS: fence
-- ARGV: generation
-- Returns the fence.
local lowest = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%.0f', lowest))
return lowest
