-- Shared by the scripts that give an account a job. In all of them XADD is the first write (the
-- only one that a full memory refuses), and whatever fails after it leaves a job too many, never
-- one too few.
local claims, meter = prefix..'claims', prefix..'meter'
local time = redis.call('TIME')
-- Microseconds: an account's claim is held in between, so no two of its jobs share one.
local suffix = string.format('-%014x', time[1] * 1000000 + time[2])

-- What is counted and claimed, to be written at the end by `settle`, once for all jobs.
local counted, opened, claimed = {}, {}, {}

local function count(service, by)
  if service ~= '' then counted[service] = (counted[service] or 0) + by end
end

local function open(run, by) opened[run] = (opened[run] or 0) + by end

local function settle()
  local fields = {}
  for account, claim in pairs(claimed) do
    local n = #fields
    fields[n + 1], fields[n + 2] = account, claim
  end
  if #fields > 0 then redis.call('HSET', claims, unpack(fields)) end
  for service, by in pairs(counted) do
    if redis.call('HINCRBY', meter, service, by) <= 0 then redis.call('HDEL', meter, service) end
  end
  for run, by in pairs(opened) do
    local key = prefix..'run:'..run
    -- A run that Redis has forgotten stays forgotten, so that its planner notices.
    if redis.call('HEXISTS', key, 'open') == 1 then redis.call('HINCRBY', key, 'open', by) end
  end
end

local exists = {}
local function add(lane, id, payload)
  local key = lanes[lane]
  if not exists[lane] and redis.call('EXISTS', key) == 0 then
    redis.call('XGROUP', 'CREATE', key, 'workers', '0', 'MKSTREAM')
  end
  exists[lane] = true
  return redis.call('XADD', key, '*', 'id', id, 'j', payload)
end

local function claim(account, lane, entry, id, service, runs, watched)
  claimed[account] = lane..'|'..entry..'|'..id..'|'..service..'|'..runs..'|'..watched
end

-- The claims of accounts, as one question.
local function claims_of(accounts)
  local held = redis.call('HMGET', claims, unpack(accounts))
  local known = {}
  for i, account in ipairs(accounts) do known[account] = held[i] end
  return known
end

-- The account's claim, its `found` the entry that it names: nil, and the claim free, if that is
-- gone. Nil without a claim.
local function claim_of(account, known)
  local held = claimed[account] or known[account]
  if not held then return nil end
  local lane, entry, id, service, runs, watched =
    string.match(held, '^(%d)|([%d-]+)|([^|]*)|([^|]*)|([^|]*)|(%d)$')
  if not lane then return nil end
  lane = tonumber(lane)
  return {lane = lane, entry = entry, id = id, service = service, runs = runs,
    watched = watched, found = redis.call('XRANGE', lanes[lane], entry, entry)[1]}
end

local function waits(held)
  return #redis.call('XPENDING', lanes[held.lane], 'workers', held.entry, held.entry, 1) == 0
end

-- The runs of a job that one more run asks for, and whether it did not before.
local function joined(runs, run)
  if run == '' or string.find(','..runs..',', ','..run..',', 1, true) then return runs, false end
  return runs == '' and run or runs..','..run, true
end

-- The entry that a claim named is gone, and what it counted with it.
local function forget(held)
  count(held.service, -1)
  for lost in string.gmatch(held.runs, '[^,]+') do open(lost, -1) end
end
