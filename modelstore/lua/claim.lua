-- Remember a request by its id and the digest of its content. A repetition of the same content is welcome.
-- KEYS: request
-- ARGV: request digest, ms to remember it
-- Returns 1, or 0 when the id belongs to a request of other content.
if redis.call('HSETNX', KEYS[1], 'digest', ARGV[1]) == 1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
return redis.call('HGET', KEYS[1], 'digest') == ARGV[1] and 1 or 0
