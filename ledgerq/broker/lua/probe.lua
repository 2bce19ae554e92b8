-- Try what workers and producers do, in ways that change nothing. ARGV the queue, a job id that nobody has, and
-- the keys of this queue: running, cancelled, exclusive slot, workers, epoch, renewal, waits, failures.
-- Answers {command, key, error} for each that Redis refuses.
local queue, id = ARGV[1], ARGV[2]
local running, cancelled, exclusive_slot, workers, epoch, renewal, waits, failures = unpack(ARGV, 3)
local refused = {}

local function try(command, key, ...)
    local answer = redis.pcall(command, key, ...)
    if type(answer) == 'table' and answer.err and not string.find(answer.err, 'WRONGTYPE', 1, true) then
        refused[#refused + 1] = {command, key, answer.err}
    end
end

for _, key in ipairs({queue, cancelled, ABORTED, workers}) do
    try('ZADD', key, 'XX', 0, id)
    try('ZSCORE', key, id)
    try('ZRANGE', key, 0, 0)
    try('ZRANK', key, id)
    try('ZCOUNT', key, '(0', '(0')
    try('ZRANGEBYSCORE', key, '(0', '(0')
    try('ZREM', key, id)
    try('ZREMRANGEBYSCORE', key, '(0', '(0')
end
local of_queue = {[exclusive_slot] = true, [epoch] = true, [renewal] = true}
for _, key in ipairs({JOB .. id, RESULT .. id, RETRY .. id, IN_PROGRESS .. id, exclusive_slot, epoch, renewal}) do
    try('MGET', key)
    try('GET', key)
    try('EXISTS', key)
    if not of_queue[key] then try('SET', key, '', 'XX') end
end
for _, key in ipairs({running, waits, failures}) do
    try('HGETALL', key)
    try('HGET', key, id)
    try('HEXISTS', key, id)
    try('HMGET', key, id)
    try('HDEL', key, id)
end
try('HRANDFIELD', running, 1)
-- commands that always change something are tried on a key that only this script uses
local own = PROBE .. queue
try('HSET', own, 'f', 0)
try('HINCRBY', own, 'f', 1)
try('PEXPIRE', own, 1000)
try('DEL', own)
try('PERSIST', own)
try('PTTL', own)
try('MSET', own, 0)
try('DEL', own)
return refused
