-- Replace a strategy's deployment if it is still the one that the caller saw, and tell: state, event and request, all or
-- nothing. A request that was carried out before is recognised, so any retry is safe.
-- KEYS: deployments, events, request, channel of changes
-- ARGV: strategy, deployment seen ('' for none), new deployment, event, traceparent, request digest,
--       ms to remember the request, events to keep
-- Returns {'OK', new} | {'REPEATED', result of then} | {'MOVED', present deployment} | {'REUSED', ''}
local known = redis.call('HMGET', KEYS[3], 'digest', 'deployment')
if known[1] then
  if known[1] ~= ARGV[6] then
    return {'REUSED', ''}
  end
  return {'REPEATED', known[2]}
end
local present = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if present ~= ARGV[2] then
  return {'MOVED', present}
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if ARGV[5] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[8], '*', 'payload', ARGV[4], 'traceparent', ARGV[5])
else
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[8], '*', 'payload', ARGV[4])
end
redis.call('HSET', KEYS[3], 'digest', ARGV[6], 'deployment', ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[7])
redis.call('PUBLISH', KEYS[4], ARGV[1])
return {'OK', ARGV[3]}
