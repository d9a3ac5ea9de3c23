-- Ends jobs. Safe to repeat: XDEL is the first write (a full memory refuses it not), and only
-- the claim that still names the entry, removed before its counters, is counted.
-- KEYS: prefix. ARGV: (lane 0-4, entry, account, outcome, detail) per job.
local claims, meter = prefix..'claims', prefix..'meter'
local done, done_at = prefix..'done', prefix..'done:at'
local keep_ms, keep_most = 24 * 3600 * 1000, 10000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local watched_any = false
for i = 1, #ARGV, 5 do
  local lane, entry, account = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local outcome, detail = ARGV[i + 3], ARGV[i + 4]
  local key = lanes[tonumber(lane)]
  redis.call('XDEL', key, entry)
  redis.pcall('XACK', key, 'workers', entry)

  local held = redis.call('HGET', claims, account) or ''
  local l, e, id, service, runs, watched =
    string.match(held, '^(%d)|([%d-]+)|([^|]*)|([^|]*)|([^|]*)|(%d)$')
  if l == lane and e == entry then
    if watched == '1' then
      redis.call('HSET', done, id, string.format('%.0f', now)..'|'..outcome..'|'..detail)
      redis.call('ZADD', done_at, now, id)
      watched_any = true
    end
    redis.call('HDEL', claims, account)
    if service ~= '' and redis.call('HINCRBY', meter, service, -1) <= 0 then
      redis.call('HDEL', meter, service)
    end
    for run in string.gmatch(runs, '[^,]+') do
      local tally = prefix..'run:'..run
      if redis.call('HEXISTS', tally, 'open') == 1 then
        redis.call('HINCRBY', tally, outcome, 1)
        redis.call('HINCRBY', tally, 'open', -1)
      end
    end
  end
end

-- Each call removes more than it can have added.
local function forget(ids)
  for _, id in ipairs(ids) do
    redis.call('HDEL', done, id)
    redis.call('ZREM', done_at, id)
  end
end
if watched_any then
  local old = string.format('%.0f', now - keep_ms)
  forget(redis.call('ZRANGEBYSCORE', done_at, '-inf', old, 'LIMIT', 0, 1000))
  local over = redis.call('ZCARD', done_at) - keep_most
  if over > 0 then forget(redis.call('ZRANGE', done_at, 0, math.min(over, 1000) - 1)) end
end
return #ARGV / 5
