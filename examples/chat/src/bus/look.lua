-- Reads the state of the room in one step, so that the end of the stream and the last number of each server fit each other.
-- After room_clock.lua, with its `now` and `offset`.
-- KEYS: the stream, the last numbers, the servers, their names.
-- ARGV: the name of the server that looks, in the form that is compared.
-- Returns the room's time in ms, how far it is before Redis's own, the identifier of the last entry, the last numbers, the
-- servers' announcements, and the server that has the name, if one has it.
-- As in beat.lua: a server that has not announced itself for so long, in ms, has no name.
local NAMED = 30000
local at_end = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for at = 1, #info, 2 do
        if info[at] == 'last-generated-id' then
            at_end = info[at + 1]
        end
    end
end
local holder = redis.call('HGET', KEYS[4], ARGV[1]) or ''
local made = tonumber(string.match(redis.call('HGET', KEYS[3], holder) or '', '^(%d+) '))
if not made or now - made > NAMED then
    holder = ''
end
return {now, offset, at_end, redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3]), holder}
