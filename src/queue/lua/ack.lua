-- Ends jobs. Safe to repeat: XDEL is the first write (a full memory refuses it not), and only
-- the claim that still names the entry, removed before its counters, is counted.
-- KEYS: prefix. ARGV: (lane 0-4, entry, account, outcome, detail) per job.
local claims, meter = prefix..'claims', prefix..'meter'
local done, done_at = prefix..'done', prefix..'done:at'
local keep_ms, keep_most = 24 * 3600 * 1000, 10000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local entries, accounts = {}, {}
for i = 1, #ARGV, 5 do
  local lane = tonumber(ARGV[i])
  entries[lane] = entries[lane] or {}
  table.insert(entries[lane], ARGV[i + 1])
  accounts[#accounts + 1] = ARGV[i + 2]
end
for lane, ended in pairs(entries) do
  redis.call('XDEL', lanes[lane], unpack(ended))
  redis.pcall('XACK', lanes[lane], 'workers', unpack(ended))
end

local held = redis.call('HMGET', claims, unpack(accounts))
local free, metered, tallies, watched_any = {}, {}, {}, false
for job, account in ipairs(accounts) do
  local i = 5 * job - 4
  local lane, entry, outcome, detail = ARGV[i], ARGV[i + 1], ARGV[i + 3], ARGV[i + 4]
  local l, e, id, service, runs, watched =
    string.match(held[job] or '', '^(%d)|([%d-]+)|([^|]*)|([^|]*)|([^|]*)|(%d)$')
  if l == lane and e == entry then
    if watched == '1' then
      redis.call('HSET', done, id, string.format('%.0f', now)..'|'..outcome..'|'..detail)
      redis.call('ZADD', done_at, now, id)
      watched_any = true
    end
    free[#free + 1] = account
    metered[service] = (metered[service] or 0) + 1
    for run in string.gmatch(runs, '[^,]+') do
      tallies[run] = tallies[run] or {open = 0}
      tallies[run].open = tallies[run].open - 1
      tallies[run][outcome] = (tallies[run][outcome] or 0) + 1
    end
  end
end
if #free > 0 then redis.call('HDEL', claims, unpack(free)) end
metered[''] = nil
for service, jobs in pairs(metered) do
  if redis.call('HINCRBY', meter, service, -jobs) <= 0 then redis.call('HDEL', meter, service) end
end
for run, tally in pairs(tallies) do
  local key = prefix..'run:'..run
  if redis.call('HEXISTS', key, 'open') == 1 then
    for field, by in pairs(tally) do redis.call('HINCRBY', key, field, by) end
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
