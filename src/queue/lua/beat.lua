-- An instance's sign of life. The leader also looks after the jobs of the dead.
-- KEYS: prefix. ARGV: instance, its sign of life: "slots egress-id".
-- Returns leader 0/1, the slots of all live instances, how many jobs were put back, the egress ids of
-- all live instances.
local me, sign = ARGV[1], ARGV[2]
local ttl, most = 10000, 500

-- Who beat a moment ago knows that Redis was there for the others to beat, too. After an outage
-- all keys are gone, and the others have yet to report.
local steady = redis.call('PTTL', prefix..'alive:'..me) >= ttl / 2
-- PEXPIRE is a write that a full memory does not refuse, and lets those after it pass.
redis.call('PEXPIRE', prefix..'alive:'..me, ttl)
redis.call('SET', prefix..'alive:'..me, sign, 'PX', ttl)

local leader = redis.call('GET', prefix..'leader')
local leads = not leader or leader == me
if leads then redis.call('SET', prefix..'leader', me, 'PX', ttl) end

if redis.call('EXISTS', lanes[1]) == 0 then
  redis.call('XGROUP', 'CREATE', lanes[1], 'workers', '0', 'MKSTREAM')
end
redis.pcall('XGROUP', 'CREATECONSUMER', lanes[1], 'workers', me)

local live, back, length, egresses = 0, 0, 0, {}
for lane = 0, #lanes do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', lanes[lane], 'workers')
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    local name = consumer[2]
    local alive = redis.call('GET', prefix..'alive:'..name)
    if alive then
      if lane == 1 then
        local slots, egress = string.match(alive, '^(%d+) ?(.*)$')
        live, egresses[#egresses + 1] = live + tonumber(slots), egress
      end
    elseif leads and steady then
      for _, entry in ipairs(pending(lane, name, most)) do
        back = back + put_back(lane, entry[1])
      end
      retire(lane, name)
    end
  end
  length = length + redis.call('XLEN', lanes[lane])
end
-- Without an entry no claim is valid: whatever was miscounted is right again.
if leads and length == 0 then redis.call('UNLINK', claims, prefix..'meter') end
return {leads and 1 or 0, live, back, egresses}
