-- Takes an account's claim for this instance at once, past all lanes: with a job of its own, or
-- with the one that waits. All or nothing.
-- KEYS: prefix. ARGV: instance, its sign of life, account, run, watched 0/1, payload.
-- Returns (entry, job id, payload), or nothing: an instance has the account's job in hand.
local me, sign = ARGV[1], ARGV[2]
local account, run, watched, payload = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local held = claim_of(account, claims_of({account}))
if held and held.found and not waits(held) then return {} end

local id, runs, joins = account..suffix, run, run ~= ''
if held and held.found then
  id = held.id
  -- What waits is what is leased, so that it comes back as what it was.
  local fields = held.found[2]
  for f = 1, #fields, 2 do
    if fields[f] == 'j' then payload = fields[f + 1] end
  end
  runs, joins = joined(held.runs, run)
  if held.watched == '1' then watched = '1' end
end

local entry = add(0, id, payload)
redis.call('XCLAIM', lanes[0], 'workers', me, 0, entry, 'FORCE', 'JUSTID')
claim(account, 0, entry, id, '', runs, watched)
if held and held.found then
  redis.call('XDEL', lanes[held.lane], held.entry)
  count(held.service, -1)
elseif held then
  forget(held)
end
if joins then open(run, 1) end
settle()
-- Whoever leases is alive. Too short a life to be taken for a heartbeat's, which comes soon.
redis.pcall('SET', prefix..'alive:'..me, sign, 'PX', 4000, 'NX')
return {entry, id, payload}
