-- Put before each script: what several scripts ask. In arq, all queues of one Redis share the job ids; so a script
-- checks to which queue a body or a result belongs before it reads, overwrites or deletes it. Those of ledgerq end in
-- ,"q":"<queue>"}

-- the queue that a body names; nil if it names none, as the body of a stock arq client
local function queue_of(text)
    if string.sub(text, -2) ~= '"}' then return nil end
    local name = string.match(string.sub(text, -1000), '^.*,"q":(".*")}$')
    local good, queue = pcall(cjson.decode, name or '')
    return good and type(queue) == 'string' and queue or nil
end

-- true if a body belongs to this queue: it names the queue, or names none and its job is on the queue
local function is_of(queue, id, body)
    local named = queue_of(body)
    if named then return named == queue end
    return redis.call('ZSCORE', queue, id) ~= false
end

-- the queue that a result names; arq writes the id after it. '' if the result is no JSON, so not a ledgerq worker's
local function queue_of_result(text)
    local queue = queue_of((string.gsub(string.sub(text, -1500), '","id":"[^"]*"}$', '"}')))
    return queue or (string.sub(text, 1, 1) ~= '{' and '' or nil)
end

-- true if a kept result belongs to this queue, or names none
local function is_result_of(queue, text)
    local named = queue_of_result(text)
    return named == nil or named == queue
end

-- true if there are signs of life in this set of workers, and the last `ms` milliseconds have none. One that is later
-- than now is of before Redis' clock was set back, and does not count
local function all_are_silent(workers, ms)
    local time = redis.call('TIME')
    local now = time[1] + time[2] / 1000000
    local since = string.format('%.6f', now - ms / 1000)
    local recent = redis.pcall('ZCOUNT', workers, '(' .. since, string.format('%.6f', now))
    local older = redis.pcall('ZCOUNT', workers, '-inf', since)
    return recent == 0 and older ~= 0
end

-- a key of the wrong type counts as missing: one bad key must not stop the queue
local function guarded(...)
    local answer = redis.pcall(...)
    if type(answer) == 'table' and answer.err then return false end
    return answer
end

-- the beginning of the keys of this queue's failures; the job's id follows
local function failures_of_queue(queue) return FAILURES .. #queue .. ':' .. queue .. ':' end
