-- Put jobs on the queue, all in one round trip; one that is queued, running or just done is left alone.
-- KEYS[1] the queue; ARGV (id, body, delay in ms) for each job. Answers 1 for each job added, else 0.
-- A body has no expiry: it lives until its job has ended.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local added = {}
for i = 1, #ARGV, 3 do
    local id, body, delay = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
    if redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) == 0 then
        redis.call('SET', 'arq:job:' .. id, body)
        redis.call('ZADD', KEYS[1], string.format('%.0f', now + delay), id)
        added[#added + 1] = 1
    else
        added[#added + 1] = 0
    end
end
return added
