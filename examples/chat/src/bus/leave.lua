-- Removes a server that ends in order.
-- KEYS: the last numbers, what each server has heard, the servers, their members, their names.
-- ARGV: the server, and its name in the form that is compared.
local last, heard, servers, members, names = unpack(KEYS)
for _, key in ipairs({last, heard, servers, members}) do
    redis.call('HDEL', key, ARGV[1])
end
if redis.call('HGET', names, ARGV[2]) == ARGV[1] then
    redis.call('HDEL', names, ARGV[2])
end
return 1
