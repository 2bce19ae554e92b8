#!lua flags=allow-oom
-- Remove jobs from the queue that no worker has claimed. KEYS queue, running, cancelled; ARGV ms to keep results, then
-- for each job (id, result or '', its unique key or ''). Answers for each job 1 if removed, 0 if a worker has it.
-- Either way the job's entry in `cancelled` is deleted, and its unique key is free.
local queue, running, cancelled = unpack(KEYS)
local keep = tonumber(ARGV[1])
local FAILURES_OF = failures_of_queue(queue)

local function take_off(id, result)
    local known = redis.call('MGET', JOB .. id, RESULT .. id)
    local elsewhere = known[1] and not is_of(queue, id, known[1])
    if not elsewhere and redis.call('EXISTS', IN_PROGRESS .. id) == 1 then return 0 end
    redis.call('ZREM', queue, id)
    redis.call('HDEL', running, id)
    redis.call('DEL', FAILURES_OF .. id)
    if elsewhere then return 1 end
    redis.call('DEL', JOB .. id, RETRY .. id)
    if result ~= '' and keep > 0 and (not known[2] or is_result_of(queue, known[2])) then
        redis.call('SET', RESULT .. id, result, 'PX', string.format('%.0f', keep))
    end
    return 1
end

local answers = {}
for i = 2, #ARGV, 3 do
    local id, unique = ARGV[i], ARGV[i + 2]
    redis.call('ZREM', cancelled, id)
    if unique ~= '' and redis.call('GET', unique) == id then redis.call('DEL', unique) end
    answers[#answers + 1] = take_off(id, ARGV[i + 1])
end
return answers
