-- Put jobs on the queue, all in one round trip; a job that is queued, running or has a kept result is left alone.
-- KEYS[1] the queue; ARGV[1] 1 if a kept result does not stop a job (the receipt in the database decides),
-- then for each job (id, body, delay in ms, unique key or '', the key's window in ms).
-- Answers for each job 1 if it was added, else {the id of the job that is there, its body or result}; or
-- {id, '', name of the queue or ''} if another queue has the id.
-- A client's body does not expire: Redis keeps it until the job has ended.
local queue, anew = KEYS[1], ARGV[1] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local DAY = 24 * 3600 -- seconds until the body of a staged job expires, if Redis has lost the job's other keys

-- true if another queue has the job queued or running, or if that queue's keys can't be read
local function is_held(other, id)
    return redis.pcall('ZSCORE', other, id) or redis.pcall('HEXISTS', RUNNING .. other, id) ~= 0
end

-- the answer for an id that is in use; nil if the id is free, or has only a body that no queue holds
local function there(id, queued)
    local known = redis.call('MGET', JOB .. id, RESULT .. id)
    local body, result = known[1], known[2]
    if body then
        local named = queue_of(body)
        if named == queue or (not named and queued) then
            if queued then return {id, body} end
        elseif not named or is_held(named, id) then
            return {id, '', named or ''}
        end
    end
    if not result then return nil end
    if not is_result_of(queue, result) then return {id, '', queue_of_result(result)} end
    return not anew and {id, result} or nil
end

local function add(id, body, delay, queued)
    if anew then
        redis.call('SET', JOB .. id, body, 'EX', DAY)
        redis.call('DEL', RESULT .. id)
    else
        redis.call('SET', JOB .. id, body)
    end
    -- attempts that are counted under this id are of an earlier job, unless this job only lost its body
    if not queued then redis.call('DEL', RETRY .. id) end
    redis.call('ZADD', queue, 'NX', string.format('%.0f', now + delay), id)
end

-- true if all ids are free and no job has a unique key: then the jobs are added together
local function all_are_new()
    local keys = {}
    for i = 2, #ARGV, 5 do
        if ARGV[i + 3] ~= '' or #keys > 4000 then return false end -- Lua passes no more in one call
        keys[#keys + 1] = JOB .. ARGV[i]
        keys[#keys + 1] = RESULT .. ARGV[i]
    end
    return #keys > 2 and redis.call('EXISTS', unpack(keys)) == 0
end

local function add_all()
    local bodies, scores, answers, seen = {}, {}, {}, {}
    for i = 2, #ARGV, 5 do
        local id = ARGV[i]
        if seen[id] then
            answers[#answers + 1] = {id, seen[id]}
        else
            seen[id] = ARGV[i + 1]
            bodies[#bodies + 1] = JOB .. id
            bodies[#bodies + 1] = ARGV[i + 1]
            scores[#scores + 1] = string.format('%.0f', now + tonumber(ARGV[i + 2]))
            scores[#scores + 1] = id
            answers[#answers + 1] = 1
        end
    end
    if anew then
        for i = 1, #bodies, 2 do redis.call('SET', bodies[i], bodies[i + 1], 'EX', DAY) end
    else
        redis.call('MSET', unpack(bodies))
    end
    redis.call('ZADD', queue, 'NX', unpack(scores))
    return answers
end

if all_are_new() then return add_all() end

local answers = {}
for i = 2, #ARGV, 5 do
    local id, body, delay = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
    local unique, window = ARGV[i + 3], tonumber(ARGV[i + 4])
    local holder = unique ~= '' and redis.call('GET', unique)
    if holder then
        answers[#answers + 1] = {holder, ''}
    else
        local queued = redis.call('ZSCORE', queue, id)
        local known = there(id, queued)
        if not known then
            add(id, body, delay, queued)
            if unique ~= '' then redis.call('SET', unique, id, 'PX', window) end
        end
        answers[#answers + 1] = known or 1
    end
end
return answers
