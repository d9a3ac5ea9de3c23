-- Lets jobs wait again whose workers are gone: not held, and already without a holder at the last look. All
-- workers of a queue look in turn. ARGV: now (ms), time between two looks (ms), how often a job may be left behind.
-- Returns the ids of those that wait again.
local MOST = 7000
if redis.call('HEXISTS', queue .. 'meta', 'paused') == 1 then return {} end
if not redis.call('SET', queue .. 'stalled-check', ARGV[1], 'PX', ARGV[2], 'NX') then return {} end
local again = {}
for _, id in ipairs(redis.call('SMEMBERS', queue .. 'stalled')) do
    local key = queue .. id
    if redis.call('EXISTS', key .. ':lock') == 0 and redis.call('LREM', queue .. 'active', 1, id) > 0 and is_job(key) then
        if raise(key, 'stc') > tonumber(ARGV[3]) then
            redis.call('HSET', key, 'defa', 'job stalled more than allowable limit')
        end
        redis.call('RPUSH', queue .. 'wait', id)
        wake(queue)
        tell('event', 'waiting', 'jobId', id, 'prev', 'active')
        tell('event', 'stalled', 'jobId', id)
        again[#again + 1] = id
    end
end
redis.call('DEL', queue .. 'stalled')
local active = redis.call('LRANGE', queue .. 'active', 0, MOST - 1)
if #active > 0 then redis.call('SADD', queue .. 'stalled', unpack(active)) end
return again
