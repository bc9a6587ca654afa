-- Take a job off the queue, because it is done or because it is given up, and trim what nobody needs.
-- KEYS: entries, group state, dead letters, then the state of each other declared group
-- ARGV: group, member, entry id, keep ms, most dead letters to keep, dead letter (empty: the job is done), its
--       traceparent
-- Returns 1, or 0 when that was done before, or when a job to give up is another member's by now.
local entries, group, id = KEYS[1], ARGV[1], ARGV[3]
-- Whoever did a job may say so. Only who holds it may give it up: the other may yet succeed.
if ARGV[6] ~= '' and not redis.call('XPENDING', entries, group, id, id, 1, ARGV[2])[1] then
  return 0
end
if redis.call('XACK', entries, group, id) == 0 then
  return 0
end
if ARGV[6] ~= '' then
  if ARGV[7] ~= '' then
    redis.call('XADD', KEYS[3], '*', 'payload', ARGV[6], 'traceparent', ARGV[7])
  else
    redis.call('XADD', KEYS[3], '*', 'payload', ARGV[6])
  end
  redis.call('XTRIM', KEYS[3], 'MAXLEN', '~', ARGV[5])
end

-- Jobs end in any order, so the offset, up to which all is done, lies just before the oldest one that is not.
local offset
local oldest_pending = redis.call('XPENDING', entries, group, '-', '+', 1)[1]
if oldest_pending then
  local ms, number = string.match(oldest_pending[1], '^(%d+)-(%d+)$')
  if number ~= '0' then
    offset = string.format('%s-%.0f', ms, tonumber(number) - 1)
  else
    offset = string.format('%.0f-18446744073709551615', tonumber(ms) - 1)
  end
else
  for _, known in ipairs(redis.call('XINFO', 'GROUPS', entries)) do
    local about = {}
    for i = 1, #known, 2 do
      about[known[i]] = known[i + 1]
    end
    if about.name == group then
      offset = about['last-delivered-id']
    end
  end
end
redis.call('HSET', KEYS[2], 'offset', offset)
redis.call('HINCRBY', KEYS[2], 'read', 1)

local now = redis.call('TIME')
local oldest = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000) - tonumber(ARGV[4])
oldest = math.min(oldest, tonumber(string.match(offset, '^%d+')))
for i = 4, #KEYS do
  local other = redis.call('HMGET', KEYS[i], 'offset', 'dropped')
  if not other[2] then
    oldest = math.min(oldest, tonumber(string.match(other[1] or '0', '^%d+')))
  end
end
redis.call('XTRIM', entries, 'MINID', '~', string.format('%.0f', oldest))
return 1
