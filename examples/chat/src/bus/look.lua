#!lua flags=no-writes,allow-oom
-- Looks at the room: the end of the stream and the last number of each server fit each other.
-- KEYS: the stream, the last numbers, the servers.
-- Returns the room's time in ms, how far it is before Redis's own, the identifier of the last entry, the last numbers, and
-- the servers' announcements.
local last = KEYS[2]
-- The room has a clock that never goes back, also where another Redis with a slower clock takes over: `SEEN OFFSET`.
local seen, offset = string.match(redis.call('HGET', last, 'clock') or '', '^(%d+) (%d+)$')
seen, offset = tonumber(seen) or 0, tonumber(offset) or 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + offset
if now < seen then
    now, offset = seen, offset + seen - now
end
local at_end = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for at = 1, #info, 2 do
        if info[at] == 'last-generated-id' then
            at_end = info[at + 1]
        end
    end
end
return {now, offset, at_end, redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3])}
