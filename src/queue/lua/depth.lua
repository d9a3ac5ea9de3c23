-- KEYS: prefix. Returns (waiting, running, age of the oldest entry in ms) per lane, then the live
-- instances, their slots, and behind how many egress addresses they are.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function age(key)
  local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  return oldest and math.max(0, now - tonumber(string.match(oldest[1], '^%d+'))) or 0
end

local answer = {}
for _, key in ipairs(lanes) do
  local summary = redis.pcall('XPENDING', key, 'workers')
  local running = summary.err and 0 or summary[1]
  local n = #answer
  answer[n + 1] = math.max(0, redis.call('XLEN', key) - running)
  answer[n + 2], answer[n + 3] = running, age(key)
end
-- Repairs run from the first, and are put back into the manual lane.
answer[2] = answer[2] + redis.call('XLEN', lanes[0])
answer[3] = math.max(answer[3], age(lanes[0]))

local instances, slots, addresses, seen = 0, 0, 0, {}
local consumers = redis.pcall('XINFO', 'CONSUMERS', lanes[1], 'workers')
for _, consumer in ipairs(consumers.err and {} or consumers) do
  local alive = redis.call('GET', prefix..'alive:'..consumer[2])
  if alive then
    local its, egress = string.match(alive, '^(%d+) ?(.*)$')
    instances, slots = instances + 1, slots + tonumber(its)
    if not seen[egress] then addresses, seen[egress] = addresses + 1, true end
  end
end
local n = #answer
answer[n + 1], answer[n + 2], answer[n + 3] = instances, slots, addresses
return answer
