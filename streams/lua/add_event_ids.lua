-- Add event ids to a bucket, which lives on for as long as they do, if it would not anyway. Without a limit it would still
-- be there when its turn comes again, and new records would be taken for duplicates.
-- KEYS: bucket
-- ARGV: ms to keep them, then the ids
redis.call('SADD', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[1])))
return 1
