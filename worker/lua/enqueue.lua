-- Put jobs on the queue, all in one round trip; one that is queued, running or just done is left alone.
-- KEYS[1] the queue; ARGV[1] 1 if a result that is still kept does not matter (the database knows better),
-- then for each job (id, body, delay in ms, unique key or '', its window in ms).
-- Answers for each job 1 if it was added, else {the id of the job that is there, its body or result}.
-- A client's body has no expiry: it lives until its job has ended.
local queue, anew = KEYS[1], ARGV[1] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function there(id)
    local body = redis.call('GET', 'arq:job:' .. id)
    if body and redis.call('ZSCORE', queue, id) then return body end
    return not anew and redis.call('GET', 'arq:result:' .. id)
end

local function add(id, body, delay)
    if anew then -- should Redis lose the rest, the body must not stay for ever; the outbox has another
        redis.call('SET', 'arq:job:' .. id, body, 'EX', 24 * 3600)
        redis.call('DEL', 'arq:result:' .. id)
    else
        redis.call('SET', 'arq:job:' .. id, body)
    end
    redis.call('ZADD', queue, 'NX', string.format('%.0f', now + delay), id)
end

-- true if nothing is known of any of these jobs, and none has a unique key: then they are added together
local function all_are_new()
    local keys = {}
    for i = 2, #ARGV, 5 do
        if ARGV[i + 3] ~= '' or #keys > 4000 then return false end -- Lua passes no more in one call
        keys[#keys + 1] = 'arq:job:' .. ARGV[i]
        keys[#keys + 1] = 'arq:result:' .. ARGV[i]
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
            bodies[#bodies + 1] = 'arq:job:' .. id
            bodies[#bodies + 1] = ARGV[i + 1]
            scores[#scores + 1] = string.format('%.0f', now + tonumber(ARGV[i + 2]))
            scores[#scores + 1] = id
            answers[#answers + 1] = 1
        end
    end
    redis.call('MSET', unpack(bodies))
    redis.call('ZADD', queue, 'NX', unpack(scores))
    return answers
end

if not anew and all_are_new() then return add_all() end

local answers = {}
for i = 2, #ARGV, 5 do
    local id, body, delay = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
    local unique, window = ARGV[i + 3], tonumber(ARGV[i + 4])
    local holder = unique ~= '' and redis.call('GET', unique)
    if holder then
        answers[#answers + 1] = {holder, ''}
    else
        local known = there(id)
        if known then
            answers[#answers + 1] = {id, known}
        else
            add(id, body, delay)
            if unique ~= '' then redis.call('SET', unique, id, 'PX', window) end
            answers[#answers + 1] = 1
        end
    end
end
return answers
