#!lua flags=allow-oom
-- Note a sign of life. KEYS workers, renewal; ARGV the worker's name, half a lease in ms, the ms after which a silent worker is
-- forgotten. If all workers were silent for half a lease, Redis was away, or none ran: the renewal time of claim.lua begins.
local workers, renewal = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local function ago(ms) return string.format('%.6f', now - ms / 1000) end

if all_are_silent(workers, ARGV[2]) then redis.call('SET', renewal, '', 'PX', ARGV[2]) end
redis.call('ZADD', workers, ago(0), ARGV[1])
redis.call('ZREMRANGEBYSCORE', workers, '-inf', ago(ARGV[3]))
