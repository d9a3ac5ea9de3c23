-- Removes a repeatable schedule and its next job, or moves both to another queue. KEYS[2], if there is one: that
-- queue. ARGV: the schedule's key.
-- Returns 1 done / 0 there is none of that key, or it has no job that could be moved / -4 the other queue has one of that key already.
local name, other = ARGV[1], KEYS[2]
local at = redis.call('ZSCORE', queue .. 'repeat', name)
if not at then return 0 end
if other and redis.call('ZSCORE', other .. 'repeat', name) then return -4 end
local id = 'repeat:' .. name .. ':' .. string.format('%.0f', tonumber(at))
local description = 'repeat:' .. name
local due = redis.call('ZSCORE', queue .. 'delayed', id)
if other and not due then return 0 end
redis.call('ZREM', queue .. 'repeat', name)
if due then redis.call('ZREM', queue .. 'delayed', id) end
if other then
    redis.call('ZADD', other .. 'repeat', at, name)
    if redis.call('EXISTS', queue .. description) == 1 then
        redis.call('RENAME', queue .. description, other .. description)
    end
    if due and is_job(queue .. id) and redis.call('EXISTS', other .. id) == 0 then
        redis.call('RENAME', queue .. id, other .. id)
        redis.call('ZADD', other .. 'delayed', due, id)
        tell_in(other, 'event', 'added', 'jobId', id, 'name', redis.call('HGET', other .. id, 'name') or '')
        tell_in(other, 'event', 'delayed', 'jobId', id, 'delay', math.floor(tonumber(due) / 4096))
        local first = redis.call('ZRANGE', other .. 'delayed', 0, 0, 'WITHSCORES')
        redis.call('ZADD', other .. 'marker', tonumber(first[2]) / 4096, '1')
    end
else
    redis.call('DEL', queue .. description)
    if due then redis.call('DEL', queue .. id, queue .. id .. ':logs') end
end
if due then tell('event', 'removed', 'jobId', id, 'prev', 'delayed') end
return 1
