-- Adds jobs, joins the ones that exist, moves waiting ones to a higher lane. All or nothing per
-- job.
-- KEYS: prefix. ARGV: (account, lane 1-4, service, run, watched 0/1, payload) per job.
-- Returns (job id, 0 new / 1 joined / 2 moved) per job.
local answer, accounts = {}, {}
for i = 1, #ARGV, 6 do accounts[#accounts + 1] = ARGV[i] end
local known = #accounts > 0 and claims_of(accounts) or {}
for i = 1, #ARGV, 6 do
  local account, lane, service = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local run, watched, payload = ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
  local metered = lane == 1 and '' or service
  local held = claim_of(account, known)
  local id, how

  if held and held.found then
    id, how = held.id, 1
    local runs, joins = joined(held.runs, run)
    if held.watched == '1' then watched = '1' end
    if lane < held.lane and waits(held) then
      how = 2
      claim(account, lane, add(lane, id, payload), id, metered, runs, watched)
      redis.call('XDEL', lanes[held.lane], held.entry)
      count(metered, 1)
      count(held.service, -1)
    elseif joins or watched ~= held.watched then
      claim(account, held.lane, held.entry, id, held.service, runs, watched)
    end
    if joins then open(run, 1) end
  else
    id, how = account..suffix, 0
    claim(account, lane, add(lane, id, payload), id, metered, run, watched)
    count(metered, 1)
    if run ~= '' then open(run, 1) end
    if held then forget(held) end
  end
  answer[#answer + 1] = id
  answer[#answer + 1] = how
end
settle()
return answer
