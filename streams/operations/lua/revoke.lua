-- End the lease of a partition, whoever has it: its owner's next commit is refused, and it is taken anew.
-- KEYS: group state
-- Returns who had it, or an empty string.
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
if owner ~= '' then
  redis.call('HSET', KEYS[1], 'owner', '', 'until_ms', '0')
end
return owner
