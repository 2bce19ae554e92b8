#!lua flags=allow-oom
-- Take jobs off the queue, those that no worker has. KEYS queue, running, cancelled; ARGV ms to keep
-- results, then for each job (id, result or ''). Answers for each: 1 taken off, 0 a worker has it.
-- Either way nobody waits any more for its worker to hand it back.
local queue, running, cancelled = unpack(KEYS)
local keep = tonumber(ARGV[1])
local answers = {}
for i = 2, #ARGV, 2 do
    local id, result = ARGV[i], ARGV[i + 1]
    redis.call('ZREM', cancelled, id)
    if redis.call('EXISTS', 'arq:in-progress:' .. id) == 1 then
        answers[#answers + 1] = 0
    else
        redis.call('ZREM', queue, id)
        redis.call('HDEL', running, id)
        redis.call('DEL', 'arq:job:' .. id, 'arq:retry:' .. id, 'ledgerq:trouble:' .. id)
        if result ~= '' and keep > 0 then
            redis.call('SET', 'arq:result:' .. id, result, 'PX', string.format('%.0f', keep))
        end
        answers[#answers + 1] = 1
    end
end
return answers
