#!lua flags=allow-oom
-- Renew leases. KEYS queue, running; ARGV lease in ms, the owner's token, ids.
-- Answers for each id: 1 renewed, 0 gone (Redis has lost the claim), -1 another worker has the job.
local queue, running = unpack(KEYS)
local lease, token = tonumber(ARGV[1]), ARGV[2]
local time = redis.call('TIME')
local until_when = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + lease)
-- delete claims of jobs that Redis has lost, a few at each call: nothing else would delete them
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
    -- an entry is token|since|attempt|worker; `since` has 13 digits. Attempt 0: the body is of another queue's job
    local elsewhere = mine and string.sub(entry, #token + 15, #token + 17) == '|0|'
    local holder = not elsewhere and guarded('GET', IN_PROGRESS .. id)
    if mine and (not holder or holder == token) then
        if not elsewhere then redis.call('SET', IN_PROGRESS .. id, token, 'PX', lease) end
        redis.call('ZADD', queue, 'XX', 'GT', until_when, id)
        answers[#answers + 1] = 1
    elseif entry or holder then
        answers[#answers + 1] = -1
    else
        answers[#answers + 1] = 0
    end
end
return answers
