-- Looks at the room: the end of the stream and the last number of each server fit each other.
-- After room_clock.lua, with its `now` and `offset`.
-- KEYS: the stream, the last numbers, the servers.
-- Returns the room's time in ms, how far it is before Redis's own, the identifier of the last entry, the last numbers, and
-- the servers' announcements.
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
