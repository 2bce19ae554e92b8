#!lua flags=allow-oom
-- Take back the crashes that claims of other workers counted against jobs of this owner: it lives, and could not reach Redis for
-- longer than a lease. KEYS queue; ARGV the owner's token, ids. Answers with the number of crashes that were taken back.
local queue = KEYS[1]
local token = ARGV[1]
local FAILURES_OF = failures_of_queue(queue)
local DIED, LIVES = '"error":"the worker died"', '"error":"the worker could not reach Redis for a lease"'

-- the log with that line as it should have been
local function corrected(log, line)
    local from, upto = string.find(log, line, 1, true)
    if not from then return log end
    local at, last = string.find(line, DIED, 1, true)
    local instead = at and string.sub(line, 1, at - 1) .. LIVES .. string.sub(line, last + 1) or line
    return string.sub(log, 1, from - 1) .. instead .. string.sub(log, upto + 1)
end

local function take_back(failures)
    local noted = redis.pcall('HGET', failures, 'owner:' .. token)
    local count, line = string.match(type(noted) == 'string' and noted or '', '^(%a+) (.*)$')
    if not count then return 0 end
    redis.call('HDEL', failures, 'owner:' .. token)
    if redis.call('HINCRBY', failures, count, -1) < 0 then redis.call('HDEL', failures, count) end
    local log = redis.call('HGET', failures, 'log')
    if log then redis.call('HSET', failures, 'log', corrected(log, line)) end
    return 1
end

local taken_back = 0
for i = 2, #ARGV do taken_back = taken_back + take_back(FAILURES_OF .. ARGV[i]) end
return taken_back
