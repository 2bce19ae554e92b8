#!lua flags=allow-oom
-- Review the crashes that claims of other workers counted against jobs of this owner, when it lives: its leases ran out.
-- KEYS queue; ARGV the owner's token, 1 if it could not renew them and they are taken back, or 0 if they stay; ids.
-- Answers with the number of crashes that were taken back.
local queue = KEYS[1]
local token, take_back = ARGV[1], ARGV[2] == '1'
local FAILURES_OF = failures_of_queue(queue)
local MOST = 3 -- crashes of one job that are taken back: a job may be the cause that its workers do not reach Redis
local DIED, LIVES = '"error":"the worker died"', '"error":"the worker could not renew its lease"'

-- the log with that line as it should have been
local function corrected(log, line)
    local from, upto = string.find(log, line, 1, true)
    local at, last = string.find(line, DIED, 1, true)
    if not from or not at then return log end
    local instead = string.sub(line, 1, at - 1) .. LIVES .. string.sub(line, last + 1)
    return string.sub(log, 1, from - 1) .. instead .. string.sub(log, upto + 1)
end

local function review(failures)
    local noted = guarded('HGET', failures, 'owner:' .. token)
    if not noted then return 0 end
    redis.call('HDEL', failures, 'owner:' .. token) -- once, whatever is decided
    local count, line = string.match(noted, '^(%a+) (.*)$')
    local known = tonumber(count and guarded('HGET', failures, count) or nil)
    if not take_back or not known or known < 1 then return 0 end
    if (guarded('HINCRBY', failures, 'taken_back', 1) or MOST + 1) > MOST then return 0 end
    guarded('HINCRBY', failures, count, -1)
    redis.call('HDEL', failures, 'beside') -- it was of a job with more crashes
    local log = redis.call('HGET', failures, 'log')
    if log then redis.call('HSET', failures, 'log', corrected(log, line)) end
    return 1
end

local taken_back = 0
for i = 3, #ARGV do taken_back = taken_back + review(FAILURES_OF .. ARGV[i]) end
return taken_back
