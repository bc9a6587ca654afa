-- Begin the work of an event, unless it is done or somebody is at it.
-- KEYS: event
-- ARGV: token of who asks, lease ms
-- Returns {'FIRST'} | {'DONE'} | {'BUSY', ms until that lease is over}
local known = redis.call('GET', KEYS[1])
if known == 'done' then
  return {'DONE'}
end
if known and known ~= ARGV[1] then
  return {'BUSY', redis.call('PTTL', KEYS[1])}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'FIRST'}
