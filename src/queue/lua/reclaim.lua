-- Puts back what was delivered to an instance that does not have it in hand: the answer was
-- lost, the process that had it is gone, or it is about to go.
-- KEYS: prefix. ARGV: instance, `leave` or `stay`, then the entries in hand as `lane|entry`.
-- Returns how many were put back, and 1 if there are more to look at.
local me, leaves = ARGV[1], ARGV[2] == 'leave'
local most = 1000 + #ARGV
-- A write that a full memory does not refuse lets those after it pass.
redis.call('HDEL', claims, '')

local hand = {}
for i = 3, #ARGV do hand[ARGV[i]] = true end

local back, more = 0, 0
for lane = 0, #lanes do
  local entries = pending(lane, me, most)
  if #entries == most then more = 1 end
  for _, entry in ipairs(entries) do
    if not hand[lane..'|'..entry[1]] then back = back + put_back(lane, entry[1]) end
  end
end
if leaves and more == 0 then
  for lane = 0, #lanes do retire(lane, me) end
  redis.call('UNLINK', prefix..'alive:'..me)
  if redis.call('GET', prefix..'leader') == me then redis.call('UNLINK', prefix..'leader') end
end
return {back, more}
