#!lua flags=allow-oom
-- End claims: only the owner can. KEYS queue, running, aborted; ARGV the owner's token, then for each job
-- (id, action, delay in ms, result, ms to keep the result or 0 for no limit, note, ms by which arq's mark outlives it).
-- Actions: `done` the job has ended; `retry` run it again after the delay, an attempt is spent; `release` run it again,
-- no attempt is spent; `interrupt` as `release`, and an interruption is counted.
-- Answers for each job 1 if its claim ended, 0 if the token does not own the claim.
local queue, running, aborted = unpack(KEYS)
local token = ARGV[1]
local MONTH = 30 * 24 * 3600 * 1000
local FAILURES_OF = failures_of_queue(queue)
-- an entry is token|since|attempt|worker; `since` has 13 digits
local ELSEWHERE = 0 -- the attempt of a claim whose body is of another queue's job: arq's keys of the id are left alone
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local keys, queued, ended, marks = {}, {}, {}, {} -- to delete: keys, members of the queue, claims, aborts

local function done(id, result, keep, elsewhere)
    keys[#keys + 1] = FAILURES_OF .. id
    queued[#queued + 1] = id
    if elsewhere then return end
    keys[#keys + 1] = JOB .. id
    keys[#keys + 1] = RETRY .. id
    marks[#marks + 1] = id
    if result ~= '' then
        if keep > 0 then
            redis.call('SET', RESULT .. id, result, 'PX', keep)
        else
            redis.call('SET', RESULT .. id, result)
        end
    end
end

local function again(id, action, delay, note, attempt)
    local failures = FAILURES_OF .. id
    redis.call('ZADD', queue, 'XX', string.format('%.0f', now + delay), id)
    if action == 'retry' and attempt ~= ELSEWHERE then
        redis.call('SET', RETRY .. id, attempt, 'PX', MONTH)
    elseif attempt ~= ELSEWHERE and attempt > 1 then
        redis.call('PEXPIRE', RETRY .. id, MONTH) -- a job that snoozes does not forget its failures
    end
    if action == 'interrupt' then redis.call('HINCRBY', failures, 'interruptions', 1) end
    if note ~= '' then
        local log = redis.call('HGET', failures, 'log') or ''
        if #log < 100000 then redis.call('HSET', failures, 'log', log .. note .. '\n') end
    end
    redis.call('PEXPIRE', failures, MONTH)
end

-- one command for each job would be slow, so jobs are looked up and deleted `AT_ONCE` at a time
local AT_ONCE = 250

local function owned(from, upto)
    local ids, progress, ours = {}, {}, {}
    for i = from, upto, 7 do
        ids[#ids + 1] = ARGV[i]
        progress[#progress + 1] = IN_PROGRESS .. ARGV[i]
    end
    local entries = redis.call('HMGET', running, unpack(ids))
    local holders = redis.call('MGET', unpack(progress))
    for n, id in ipairs(ids) do
        local entry, holder = entries[n], holders[n]
        local mine = entry and string.sub(entry, 1, #token + 1) == token .. '|'
        local attempt = mine and tonumber(string.match(entry, '^[^|]*|[^|]*|(%d+)'))
        ours[id] = (attempt == ELSEWHERE or not holder or holder == token) and attempt
    end
    return ours
end

local function take_away()
    if #keys > 0 then redis.call('DEL', unpack(keys)) end
    if #ended > 0 then redis.call('HDEL', running, unpack(ended)) end
    if #queued > 0 then redis.call('ZREM', queue, unpack(queued)) end
    if #marks > 0 then redis.call('ZREM', aborted, unpack(marks)) end
    keys, queued, ended, marks = {}, {}, {}, {}
end

local answers = {}
for from = 2, #ARGV, 7 * AT_ONCE do
    local upto = math.min(#ARGV, from + 7 * AT_ONCE - 1)
    local ours = owned(from, upto)
    for i = from, upto, 7 do
        local id, action, delay, result = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
        local keep, note, outlive = tonumber(ARGV[i + 4]), ARGV[i + 5], tonumber(ARGV[i + 6])
        if ours[id] then
            local attempt = ours[id]
            local elsewhere = attempt == ELSEWHERE
            ours[id] = false -- a claim that is named twice ends once
            ended[#ended + 1] = id
            if outlive > 0 and not elsewhere then
                redis.call('PEXPIRE', IN_PROGRESS .. id, outlive)
            elseif not elsewhere then
                keys[#keys + 1] = IN_PROGRESS .. id
            end
            if action == 'done' then
                done(id, result, keep, elsewhere)
            else
                again(id, action, delay, note, attempt)
            end
            answers[#answers + 1] = 1
        else
            answers[#answers + 1] = 0
        end
    end
    take_away()
end
return answers
