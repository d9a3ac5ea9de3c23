-- KEYS: prefix. ARGV: account, job id.
-- Returns `queued` and the lane, `running`, `done` and what was kept of it, or nothing.
local account, id = ARGV[1], ARGV[2]
local held = redis.call('HGET', prefix..'claims', account) or ''
local l, entry, held_id = string.match(held, '^(%d)|([%d-]+)|([^|]*)|')
if held_id == id then
  local key = lanes[tonumber(l)]
  if #redis.call('XRANGE', key, entry, entry) == 0 then return {} end
  local waits = #redis.call('XPENDING', key, 'workers', entry, entry, 1) == 0
  return waits and {'queued', l} or {'running'}
end
local done = redis.call('HGET', prefix..'done', id)
return done and {'done', done} or {}
