#!lua flags=allow-oom
-- Renew leases. KEYS queue, running; ARGV lease in ms, the owner's token, ids.
-- Answers for each id: 1 renewed, 0 gone (Redis has forgotten the job), -1 somebody else has it.
local queue, running = unpack(KEYS)
local lease, token = tonumber(ARGV[1]), ARGV[2]
local time = redis.call('TIME')
local until_when = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + lease)
-- a few entries at a time: those of jobs that Redis has lost would stay for ever
for _, id in ipairs(redis.call('HRANDFIELD', running, 5)) do
    if not redis.call('ZSCORE', queue, id) and redis.call('EXISTS', IN_PROGRESS .. id) == 0 then
        redis.call('HDEL', running, id)
    end
end

local answers = {}
for i = 3, #ARGV do
    local id = ARGV[i]
    local entry = redis.call('HGET', running, id)
    local mine = entry and string.sub(entry, 1, #token + 1) == token .. '|'
    -- an entry is token|since|attempt|worker, since of 13 digits; of an attempt 0 the rest is another queue's
    local foreign = mine and string.sub(entry, #token + 15, #token + 17) == '|0|'
    local holder = not foreign and redis.call('GET', IN_PROGRESS .. id)
    if mine and (not holder or holder == token) then
        if not foreign then redis.call('SET', IN_PROGRESS .. id, token, 'PX', lease) end
        redis.call('ZADD', queue, 'XX', 'GT', until_when, id)
        answers[#answers + 1] = 1
    elseif entry or holder then
        answers[#answers + 1] = -1
    else
        answers[#answers + 1] = 0
    end
end
return answers
