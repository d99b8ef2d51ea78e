-- The room's clock, which every script that needs the time begins with. It never goes back, also where another Redis with a
-- slower clock takes over: the field `clock` of the last numbers, KEYS[2], is `SEEN OFFSET`, in ms.
local seen, offset = string.match(redis.call('HGET', KEYS[2], 'clock') or '', '^(%d+) (%d+)$')
seen, offset = tonumber(seen) or 0, tonumber(offset) or 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + offset
if now < seen then
    now, offset = seen, offset + seen - now
end
