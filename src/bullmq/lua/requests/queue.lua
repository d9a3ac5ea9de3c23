-- What the scripts on the queue of refresh requests have in common.
-- KEYS[1]: what the queue's keys begin with, such as `bull:token-refreshes:`.
local queue = KEYS[1]

-- An event, as whoever waits for a job listens for it; the stream keeps as many as its queue wants.
local function tell_in(base, ...)
    local most = tonumber(redis.call('HGET', base .. 'meta', 'opts.maxLenEvents')) or 10000
    redis.call('XADD', base .. 'events', 'MAXLEN', '~', most, '*', ...)
end

local function tell(...)
    tell_in(queue, ...)
end

-- A job has data. What else stands under its name, or nothing, is none, and is never made one.
local function is_job(key)
    return redis.call('TYPE', key).ok == 'hash' and redis.call('HEXISTS', key, 'data') == 1
end

local function wake(base)
    redis.call('ZADD', base .. 'marker', 0, '0')
end

local function prioritize(base, id, priority)
    local count = redis.call('INCR', base .. 'pc')
    redis.call('ZADD', base .. 'prioritized', priority * 4294967296 + count % 4294967296, id)
end

-- Counts up a number of a job's; what others made of it is no reason to stop half-way.
local function raise(key, field)
    local count = redis.pcall('HINCRBY', key, field, 1)
    if type(count) == 'number' then return count end
    redis.call('HSET', key, field, 1)
    return 1
end

-- Whether the job is this token's: 0; -1 it is gone; -2 nobody holds it; -6 somebody else does; -3 it is not
-- being worked on. Changes nothing.
local function held(id, token)
    if not is_job(queue .. id) then return -1 end
    local holder = redis.call('GET', queue .. id .. ':lock')
    if holder ~= token then return holder and -6 or -2 end
    return 0
end

-- Takes a job that is `held` out of the hands of its worker. Answers as `held`.
local function let_go(id, token)
    local answer = held(id, token)
    if answer < 0 then return answer end
    redis.call('DEL', queue .. id .. ':lock')
    redis.call('SREM', queue .. 'stalled', id)
    if redis.call('LREM', queue .. 'active', -1, id) < 1 then return -3 end
    -- Where only so many may be active, one that waits has room now.
    if redis.call('HEXISTS', queue .. 'meta', 'concurrency') == 1 then wake(queue) end
    return 0
end

-- A job that is over leaves room for the next of its kind.
local function forget_likeness(id)
    local likeness = redis.call('HGET', queue .. id, 'deid')
    if not likeness then return end
    local key = queue .. 'de:' .. likeness
    local left = redis.call('PTTL', key)
    if left == 0 or (left == -1 and redis.call('GET', key) == id) then redis.call('DEL', key) end
end

-- Puts a job's hash that has come to another queue in line there, as its own worker left it.
local function arrive(base, id)
    local key = base .. id
    redis.call('HDEL', key, 'processedOn', 'pb')
    if redis.call('HINCRBY', key, 'ats', -1) <= 0 then redis.call('HDEL', key, 'ats') end
    tell_in(base, 'event', 'added', 'jobId', id, 'name', redis.call('HGET', key, 'name') or '')
    local meta = redis.call('HMGET', base .. 'meta', 'paused', 'version')
    local priority = tonumber(redis.call('HGET', key, 'priority')) or 0
    if priority > 0 then
        prioritize(base, id, priority)
    else
        -- Up to version 5, what comes to a paused queue waits elsewhere.
        local aside = meta[1] and string.find(meta[2] or '', '^bullmq:[1-5]%.')
        redis.call('LPUSH', base .. (aside and 'paused' or 'wait'), id)
    end
    if not meta[1] then wake(base) end
    tell_in(base, 'event', 'waiting', 'jobId', id)
end
