-- Renew a lease that is still one's own, even if it is over: nobody has taken it.
-- KEYS: group state
-- ARGV: owner, epoch, lease ms (0 gives it back)
-- Returns 1, or 0 when it was lost.
local known = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] then
  return 0
end
if ARGV[3] == '0' then
  redis.call('HSET', KEYS[1], 'owner', '', 'until_ms', '0')
else
  local now = redis.call('TIME')
  local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
  redis.call('HSET', KEYS[1], 'until_ms', string.format('%.0f', now_ms + tonumber(ARGV[3])))
end
return 1
