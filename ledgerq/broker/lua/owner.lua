-- Put before each script. Ids are shared by all queues of one Redis, as arq has it; so a script asks whose
-- a body or a result is before it reads, overwrites or deletes it. Ours end in ,"q":"<queue>"}

-- the queue that a body names, or nil: a stock client's names none
local function queue_of(text)
    if string.sub(text, -2) ~= '"}' then return nil end
    local name = string.match(string.sub(text, -1000), '^.*,"q":(".*")}$')
    local good, queue = pcall(cjson.decode, name or '')
    return good and type(queue) == 'string' and queue or nil
end

-- true if a body is of this queue; one that names none is, if its job is there
local function is_of(queue, id, body)
    local named = queue_of(body)
    if named then return named == queue end
    return redis.call('ZSCORE', queue, id) ~= false
end

-- the queue that a result names: arq's have the id behind it. '' if it is no JSON, so not from our workers
local function queue_of_result(text)
    local queue = queue_of((string.gsub(string.sub(text, -1500), '","id":"[^"]*"}$', '"}')))
    return queue or (string.sub(text, 1, 1) ~= '{' and '' or nil)
end

-- true if a kept result is of this queue, or does not say
local function is_result_of(queue, text)
    local named = queue_of_result(text)
    return named == nil or named == queue
end
