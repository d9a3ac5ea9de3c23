-- Lets delayed jobs whose time has come wait, and takes jobs that wait, under a lock.
-- ARGV: now (ms), token, lock (ms), most jobs, largest data, largest options.
-- Returns when the next delayed job is due (ms; -1: there is none), how many names had no job, and the jobs:
-- id, name, data or '', its size, options or '', attempts made, made at (ms), why it is to fail or false,
-- whether it is part of a flow, attempts begun.
local now, token, lock, most = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local PROMOTED = 200
local meta = redis.call('HMGET', queue .. 'meta', 'paused', 'concurrency')
if meta[1] then return {-1, 0, {}} end

local due = redis.call('ZRANGEBYSCORE', queue .. 'delayed', 0, (now + 1) * 4096 - 1, 'LIMIT', 0, PROMOTED)
for _, id in ipairs(due) do
    redis.call('ZREM', queue .. 'delayed', id)
    local key = queue .. id
    if is_job(key) then
        local priority = tonumber(redis.call('HGET', key, 'priority')) or 0
        if priority > 0 then prioritize(queue, id, priority) else redis.call('LPUSH', queue .. 'wait', id) end
        redis.call('HSET', key, 'delay', 0)
        tell('event', 'waiting', 'jobId', id, 'prev', 'delayed')
    end
end

if meta[2] then
    most = math.min(most, (tonumber(meta[2]) or 0) - redis.call('LLEN', queue .. 'active'))
end
local function next_id()
    local id = redis.call('RPOPLPUSH', queue .. 'wait', queue .. 'active')
    if id then return id end
    id = redis.call('ZPOPMIN', queue .. 'prioritized')[1]
    if id then
        redis.call('LPUSH', queue .. 'active', id)
    else
        redis.call('DEL', queue .. 'pc')
    end
    return id
end

-- A field's text, unless it is too large.
local function small(key, name, largest)
    if redis.call('HSTRLEN', key, name) > tonumber(largest) then return '' end
    return redis.call('HGET', key, name) or ''
end

local taken, gone = {}, 0
while #taken < most and gone < PROMOTED do
    local id = next_id()
    if not id then break end
    local key = queue .. id
    if is_job(key) then
        redis.call('SET', key .. ':lock', token, 'PX', lock)
        redis.call('HSET', key, 'processedOn', now, 'pb', 'refreshd')
        local starts = raise(key, 'ats')
        tell('event', 'active', 'jobId', id, 'prev', 'waiting')
        taken[#taken + 1] = {
            id, small(key, 'name', 1024), small(key, 'data', ARGV[5]), redis.call('HSTRLEN', key, 'data'),
            small(key, 'opts', ARGV[6]), tonumber(redis.call('HGET', key, 'atm')) or 0,
            tonumber(redis.call('HGET', key, 'timestamp')) or 0, redis.call('HGET', key, 'defa'),
            redis.call('HEXISTS', key, 'parentKey'), starts,
        }
    else
        redis.call('LREM', queue .. 'active', 1, id)
        gone = gone + 1
    end
end
-- There may be more: the next worker looks, too.
if #taken > 0 or #due > 0 or gone > 0 then wake(queue) end
local first = redis.call('ZRANGE', queue .. 'delayed', 0, 0, 'WITHSCORES')
return {first[2] and math.floor(tonumber(first[2]) / 4096) or -1, gone, taken}
