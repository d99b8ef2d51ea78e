-- Appends the lines of one server to the stream, and notes the number of the last one, in one step: stream and numbers are
-- kept or lost together, and a batch is written as a whole or not at all (a full or a loading Redis refuses the script).
-- After room_clock.lua, with its `now` and `offset`.
-- KEYS: the stream, the last numbers, what each server has heard.
-- ARGV: the server, the oldest number that it still has, the most entries of the stream, and for each line its number,
-- when it was said by the room's clock in ms, how many names and values of fields follow, and these.
-- Returns the number of the last line, and what each server has heard.
local lines, last, heard = KEYS[1], KEYS[2], KEYS[3]
local server, base, cap = ARGV[1], tonumber(ARGV[2]), ARGV[3]
redis.call('HSET', last, 'clock', string.format('%.0f %.0f', now, offset))
local known = tonumber(redis.call('HGET', last, server) or '0') or 0
local before = known
local at = 4
while at + 2 <= #ARGV do
    local number, count = tonumber(ARGV[at]), tonumber(ARGV[at + 2])
    -- A line that is in the stream already was written by a call whose answer was lost.
    if number > known then
        -- A number that is missing was lost with the tail of the stream: the server begins again there. What it does not
        -- have any more is a gap.
        if number ~= known + 1 and number ~= base then
            break
        end
        redis.call('XADD', lines, 'MAXLEN', '~', cap, '*', 'server', server, 'number', ARGV[at],
            'said', string.format('%.0f', math.min(now, ARGV[at + 1])), unpack(ARGV, at + 3, at + 2 + count))
        known = number
    end
    at = at + 3 + count
end
if known ~= before then
    redis.call('HSET', last, server, string.format('%.0f', known))
end
return {known, redis.call('HGETALL', heard)}
