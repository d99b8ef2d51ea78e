-- Notes what a server has heard, also in a full Redis.
-- KEYS: what each server has heard. ARGV: the server, and what it has heard.
-- Returns what each server has heard.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('HGETALL', KEYS[1])
