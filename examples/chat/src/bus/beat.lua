-- Announces a server, if it alone has its name; also in a full Redis, so that this makes no server seem to be gone.
-- After room_clock.lua, with its `now` and `offset`.
-- KEYS: the stream, the last numbers, what each server has heard, the servers, their members, their names.
-- ARGV: the server, its name in the form that is compared, its announcement, its members or nothing if they have not
-- changed, what it has heard or nothing if it does not follow the stream yet, the entries to keep, and the holder of the
-- name, with its announcement, whose place it takes.
-- Returns 1, the last number of the server, what each server has heard, and the room's time in ms; or 0, and the name's
-- holder with its announcement, and the time since that in ms; or 2, if the members have not changed and Redis has lost them:
-- then nothing is announced, and the server does so again with its members.
local lines, last, heard, servers, members, names = unpack(KEYS)
local server, name, shown, list, acks, length, instead, stale = unpack(ARGV)
-- How long after its last announcement a server keeps its name from one that was not there to see that it is silent, its
-- place is waited for by the trimming, and it is remembered, in ms.
local NAMED, WAITED, REMEMBERED = 30000, 300000, 86400000
redis.call('HSET', last, 'clock', string.format('%.0f %.0f', now, offset))

local function age_of(record)
    return now - (tonumber(string.match(record, '^(%d+) ')) or 0)
end

local function forget(id)
    redis.call('HDEL', servers, id)
    redis.call('HDEL', members, id)
    redis.call('HDEL', heard, id)
end

local holder = redis.call('HGET', names, name)
if holder and holder ~= server then
    local record = redis.call('HGET', servers, holder)
    local is_gone = not record or age_of(record) > NAMED or (holder == instead and record == stale)
    if not is_gone then
        return {0, holder, record .. ' ' .. string.format('%.0f', math.max(age_of(record), 0)), 0}
    end
    forget(holder)
end
if list == '' and redis.call('HEXISTS', members, server) == 0 then
    return {2, '', '', 0}
end
redis.call('HSET', names, name, server)
redis.call('HSET', servers, server, string.format('%.0f %s', now, shown))
if list ~= '' then
    redis.call('HSET', members, server, list)
end
if acks ~= '' then
    redis.call('HSET', heard, server, acks)
end

-- An identifier of the stream as two numbers.
local function place_of(text)
    local ms, count = string.match(text or '', '^(%d+)-(%d+)')
    return tonumber(ms), tonumber(count)
end

local over = redis.call('XLEN', lines) - tonumber(length)
local min, min_ms, min_count
local records = redis.call('HGETALL', servers)
for at = 1, #records, 2 do
    local id = records[at]
    local age = age_of(records[at + 1])
    if age > REMEMBERED then
        forget(id)
        redis.call('HDEL', last, id)
    elseif over > 0 and age < WAITED then
        local text = redis.call('HGET', heard, id)
        local ms, count = place_of(text)
        if ms and (not min or ms < min_ms or (ms == min_ms and count < min_count)) then
            min, min_ms, min_count = string.match(text, '^%d+%-%d+'), ms, count
        end
    end
end
if over > 0 and min then
    redis.call('XTRIM', lines, 'MINID', '~', min, 'LIMIT', over)
end
return {1, tonumber(redis.call('HGET', last, server) or '0') or 0, redis.call('HGETALL', heard),
    now}
