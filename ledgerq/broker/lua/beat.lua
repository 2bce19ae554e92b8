#!lua flags=allow-oom
-- Note a sign of life. KEYS workers, renewal; ARGV the worker's name, half a lease in ms, the ms after which a silent worker is
-- forgotten. If no worker gave one for half a lease, Redis was away, or no worker ran: the renewal time of claim.lua begins.
local workers, renewal = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local newest = redis.call('ZRANGE', workers, -1, -1, 'WITHSCORES')[2]
if newest and now - newest >= ARGV[2] / 1000 then redis.call('SET', renewal, '', 'PX', ARGV[2]) end
redis.call('ZADD', workers, string.format('%.6f', now), ARGV[1])
if redis.call('EXISTS', renewal) == 0 then -- else claim.lua must still know who was there before the outage
    redis.call('ZREMRANGEBYSCORE', workers, '-inf', string.format('%.6f', now - ARGV[3] / 1000))
end
