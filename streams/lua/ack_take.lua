-- Take one job: one that its member has left, when asked to look for those, or else the next new one.
-- KEYS: entries, group state
-- ARGV: group, member, ms after which a silent member's job is free, 1 to look for such jobs, attempt that is not to be
--       made now (0: any may)
-- Returns {'NEW' | 'CLAIMED', entry id, attempts, fields} | {'GONE', entry id} | {'NONE', last delivered id}
local entries, group, member, idle_ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
if ARGV[4] == '1' then
  -- Not XAUTOCLAIM: it forgets a job whose entry somebody has deleted, before anyone has counted it.
  for _, left in ipairs(redis.call('XPENDING', entries, group, 'IDLE', idle_ms, '-', '+', 16)) do
    local id, attempt = left[1], left[4] + 1
    if not redis.call('XRANGE', entries, id, id)[1] then
      redis.call('XACK', entries, group, id)
      redis.call('HINCRBY', KEYS[2], 'read', 1)
      return {'GONE', id}
    end
    if attempt ~= tonumber(ARGV[5]) then
      return {'CLAIMED', id, attempt, redis.call('XCLAIM', entries, group, member, 0, id)[1][2]}
    end
  end
  -- A member's name stays in the group until someone removes it; without jobs, nothing is lost by that.
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', entries, group)) do
    local about = {}
    for i = 1, #consumer, 2 do
      about[consumer[i]] = consumer[i + 1]
    end
    if about.pending == 0 and about.idle > tonumber(idle_ms) and about.name ~= member then
      redis.call('XGROUP', 'DELCONSUMER', entries, group, about.name)
    end
  end
end
local answer = redis.call('XREADGROUP', 'GROUP', group, member, 'COUNT', 1, 'STREAMS', entries, '>')
if answer then
  local entry = answer[1][2][1]
  return {'NEW', entry[1], 1, entry[2]}
end
for _, known in ipairs(redis.call('XINFO', 'GROUPS', entries)) do
  local about = {}
  for i = 1, #known, 2 do
    about[known[i]] = known[i + 1]
  end
  if about.name == group then
    return {'NONE', about['last-delivered-id']}
  end
end
