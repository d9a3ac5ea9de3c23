-- Lets a job come again later. A queue that is paused meanwhile keeps it all the same.
-- ARGV: id, token, now (ms), in how long (ms), the reason or '' (then it was no attempt), stacktrace (JSON).
-- Returns 0, or as `let_go`.
local id, now, delay = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local answer = let_go(id, ARGV[2])
if answer < 0 then return answer end
local key = queue .. id
if ARGV[5] ~= '' then
    raise(key, 'atm')
    redis.call('HSET', key, 'failedReason', ARGV[5], 'stacktrace', ARGV[6])
end
redis.call('HSET', key, 'delay', delay)
local due = now + delay
-- Jobs of one millisecond stay in their order.
local last = redis.call('ZREVRANGEBYSCORE', queue .. 'delayed', (due + 1) * 4096 - 1, due * 4096, 'WITHSCORES',
    'LIMIT', 0, 1)
local score = last[2] and math.min(tonumber(last[2]) + 1, (due + 1) * 4096 - 1) or due * 4096
redis.call('ZADD', queue .. 'delayed', score, id)
tell('event', 'delayed', 'jobId', id, 'delay', due)
local first = redis.call('ZRANGE', queue .. 'delayed', 0, 0, 'WITHSCORES')
redis.call('ZADD', queue .. 'marker', tonumber(first[2]) / 4096, '1')
return 0
