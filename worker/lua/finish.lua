#!lua flags=allow-oom
-- End claims: only the owner can. KEYS queue, running, aborted; ARGV the owner's token, then for each job
-- (id, verb, delay in ms, result, ms to keep it or 0 for ever, note, ms that the claim outlives the job).
-- Verbs: `done` the job has ended; `retry` again after the delay, an attempt is spent; `release` again, none
-- is; `interrupt` as release, but counted. Answers 1 for each job, or 0 if it was not ours to end.
local queue, running, aborted = unpack(KEYS)
local token = ARGV[1]
local MONTH = 30 * 24 * 3600 * 1000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function ours(id)
    local entry = redis.call('HGET', running, id)
    local holder = redis.call('GET', 'arq:in-progress:' .. id)
    return entry and string.sub(entry, 1, #token + 1) == token .. '|' and (not holder or holder == token)
end

local function done(id, result, keep)
    redis.call('DEL', 'arq:job:' .. id, 'arq:retry:' .. id, 'ledgerq:trouble:' .. id)
    redis.call('ZREM', queue, id)
    redis.call('ZREM', aborted, id)
    if result ~= '' then
        if keep > 0 then
            redis.call('SET', 'arq:result:' .. id, result, 'PX', keep)
        else
            redis.call('SET', 'arq:result:' .. id, result)
        end
    end
end

local function again(id, verb, delay, note)
    local trouble = 'ledgerq:trouble:' .. id
    redis.call('ZADD', queue, 'XX', string.format('%.0f', now + delay), id)
    if verb ~= 'retry' then
        local attempt = redis.pcall('DECR', 'arq:retry:' .. id)
        if type(attempt) == 'number' and attempt <= 0 then redis.call('DEL', 'arq:retry:' .. id) end
    end
    if verb == 'interrupt' then redis.call('HINCRBY', trouble, 'interruptions', 1) end
    if note ~= '' then
        local log = redis.call('HGET', trouble, 'log') or ''
        if #log < 100000 then redis.call('HSET', trouble, 'log', log .. note .. '\n') end
    end
    redis.call('PEXPIRE', trouble, MONTH)
end

local answers = {}
for i = 2, #ARGV, 7 do
    local id, verb, delay, result = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
    local keep, note, outlive = tonumber(ARGV[i + 4]), ARGV[i + 5], tonumber(ARGV[i + 6])
    if ours(id) then
        redis.call('HDEL', running, id)
        if outlive > 0 then
            redis.call('PEXPIRE', 'arq:in-progress:' .. id, outlive)
        else
            redis.call('DEL', 'arq:in-progress:' .. id)
        end
        if verb == 'done' then done(id, result, keep) else again(id, verb, delay, note) end
        answers[#answers + 1] = 1
    else
        answers[#answers + 1] = 0
    end
end
return answers
