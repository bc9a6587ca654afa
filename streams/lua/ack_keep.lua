-- Keep the claims of jobs under way; the number of attempts is set, not counted up.
-- KEYS: entries
-- ARGV: group, member, then for each job: entry id, attempts
-- Returns the ids of jobs that are no longer this member's.
local entries, group, member, lost = KEYS[1], ARGV[1], ARGV[2], {}
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  if redis.call('XPENDING', entries, group, id, id, 1, member)[1] then
    redis.call('XCLAIM', entries, group, member, 0, id, 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  else
    lost[#lost + 1] = id
  end
end
return lost
