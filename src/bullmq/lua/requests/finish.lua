-- Ends a job, and tells whoever waits for it. KEYS[2], if there is one: the queue that gets a copy.
-- ARGV: id, token, now (ms), `completed` or `failed`, its result or the reason, stacktrace (JSON), attempts,
-- how many of its kind are kept (-1: all, '': as many as are young enough), how long (s; '': for ever).
-- Returns 0, or as `let_go`.
local id, token, now, how, word = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
-- Old jobs that are forgotten at once; the rest goes with the next ones.
local MOST = 1000
local answer = let_go(id, token)
if answer < 0 then return answer end
local key = queue .. id
if KEYS[2] and redis.call('EXISTS', KEYS[2] .. id) == 0 then
    redis.call('COPY', key, KEYS[2] .. id)
    arrive(KEYS[2], id)
end
forget_likeness(id)

local function remove(name)
    local base = queue .. name
    redis.call('DEL', base, base .. ':logs', base .. ':dependencies', base .. ':processed', base .. ':failed',
        base .. ':unsuccessful')
end

local field = how == 'completed' and 'returnvalue' or 'failedReason'
local made = raise(key, 'atm')
if ARGV[8] == '0' then
    remove(id)
else
    local ended = queue .. how
    redis.call('ZADD', ended, now, id)
    redis.call('HSET', key, field, word, 'finishedOn', now)
    if how == 'failed' then
        redis.call('HSET', key, 'stacktrace', ARGV[6])
        redis.call('HDEL', key, 'defa')
    end
    local old = {}
    if ARGV[9] ~= '' then
        local until_then = tonumber(now) - tonumber(ARGV[9]) * 1000
        old = redis.call('ZRANGEBYSCORE', ended, '-inf', until_then, 'LIMIT', 0, MOST)
    end
    local keep = tonumber(ARGV[8]) or -1
    if keep > 0 then
        for _, name in ipairs(redis.call('ZREVRANGE', ended, keep, keep + MOST - 1)) do old[#old + 1] = name end
    end
    for _, name in ipairs(old) do
        remove(name)
        redis.call('ZREM', ended, name)
    end
end
tell('event', how, 'jobId', id, field, word, 'prev', 'active')
if how == 'failed' and made >= tonumber(ARGV[7]) then
    tell('event', 'retries-exhausted', 'jobId', id, 'attemptsMade', made)
end
if redis.call('LLEN', queue .. 'wait') == 0 and redis.call('LLEN', queue .. 'active') == 0
    and redis.call('ZCARD', queue .. 'prioritized') == 0 then
    tell('event', 'drained')
end
return 0
