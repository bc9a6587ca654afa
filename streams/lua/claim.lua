-- Give a producer that starts an epoch above those of all that had its id before, whatever their clocks said.
-- KEYS: epoch of the producer id
-- ARGV: the producer's clock, microseconds
-- Returns the epoch. The next one is higher by a million at least: a producer counts on by itself after each failure.
local epoch = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') + 1000000, tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%.0f', epoch))
return string.format('%.0f', epoch)
