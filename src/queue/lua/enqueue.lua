-- Adds jobs, joins the ones that exist, moves waiting ones to a higher lane. All or nothing per
-- job: XADD is the first write (the only one that a full memory refuses), and whatever fails
-- after it leaves a job too many, never one too few.
-- KEYS: prefix. ARGV: (account, lane 1-4, service, run, watched 0/1, payload) per job.
-- Returns (job id, 0 new / 1 joined / 2 moved) per job.
local prefix = KEYS[1]
local lanes = {prefix..'q:manual', prefix..'q:due', prefix..'q:bulk', prefix..'q:error'}
local claims, meter = prefix..'claims', prefix..'meter'
local time = redis.call('TIME')
-- Microseconds: an account's claim is held in between, so no two of its jobs share one.
local suffix = string.format('-%014x', time[1] * 1000000 + time[2])

local function count(service, by)
  if service ~= '' and redis.call('HINCRBY', meter, service, by) <= 0 then
    redis.call('HDEL', meter, service)
  end
end

local function open(run, by)
  local key = prefix..'run:'..run
  -- A run that Redis has forgotten stays forgotten, so that its planner notices.
  if redis.call('HEXISTS', key, 'open') == 1 then redis.call('HINCRBY', key, 'open', by) end
end

local function add(lane, id, payload)
  local key = lanes[lane]
  if redis.call('EXISTS', key) == 0 then
    redis.call('XGROUP', 'CREATE', key, 'workers', '0', 'MKSTREAM')
  end
  return redis.call('XADD', key, '*', 'id', id, 'j', payload)
end

local function claim(account, lane, entry, id, service, runs, watched)
  redis.call('HSET', claims, account,
    lane..'|'..entry..'|'..id..'|'..service..'|'..runs..'|'..watched)
end

local answer = {}
for i = 1, #ARGV, 6 do
  local account, lane, service = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local run, watched, payload = ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
  local metered = lane == 1 and '' or service
  local id, how

  local held = redis.call('HGET', claims, account)
  local l, entry, hid, hservice, runs, hwatched
  if held then
    l, entry, hid, hservice, runs, hwatched =
      string.match(held, '^(%d)|([%d-]+)|([^|]*)|([^|]*)|([^|]*)|(%d)$')
    l = tonumber(l)
  end

  if l and #redis.call('XRANGE', lanes[l], entry, entry) == 1 then
    id, how = hid, 1
    local joins = run ~= '' and not string.find(','..runs..',', ','..run..',', 1, true)
    if joins then runs = runs == '' and run or runs..','..run end
    if hwatched == '1' then watched = '1' end
    if lane < l and #redis.call('XPENDING', lanes[l], 'workers', entry, entry, 1) == 0 then
      how = 2
      claim(account, lane, add(lane, id, payload), id, metered, runs, watched)
      redis.call('XDEL', lanes[l], entry)
      count(metered, 1)
      count(hservice, -1)
    elseif joins or watched ~= hwatched then
      claim(account, l, entry, id, hservice, runs, watched)
    end
    if joins then open(run, 1) end
  else
    id, how = account..suffix, 0
    claim(account, lane, add(lane, id, payload), id, metered, run, watched)
    count(metered, 1)
    if run ~= '' then open(run, 1) end
    if l then
      -- The entry that the claim named is gone, and what it counted with it.
      count(hservice, -1)
      for lost in string.gmatch(runs, '[^,]+') do open(lost, -1) end
    end
  end
  answer[#answer + 1] = id
  answer[#answer + 1] = how
end
return answer
