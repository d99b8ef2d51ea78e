#!lua flags=no-writes,allow-oom
-- Looks at the room: the end of the stream and the last number of each server fit each other.
-- KEYS: the stream, the last numbers, the servers.
-- Returns the time in ms, the identifier of the last entry, the last numbers, and the servers' announcements.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for at = 1, #info, 2 do
        if info[at] == 'last-generated-id' then
            last = info[at + 1]
        end
    end
end
return {now, last, redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3])}
